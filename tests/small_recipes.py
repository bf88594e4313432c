"""The recipes' tiny configurations, bound to a few clips of their worlds: seconds of training on either engine.

config, loader = job("warehouse_spatial", tmp_path)
pipeline.train(pipeline.prepare(config, "job", loader))
by_category = defined("warehouse_spatial", "by_category")     # a function of its notebook
"""

import ast
from collections.abc import Callable
from pathlib import Path

import nbformat

from cookbook.config import Config
from cookbook.runs import ROOT
from data_tools import warehouse_vqa
from data_tools.worlds import drive, falling, junction, lanes, warehouse

SFT = ("video_rewards", "warehouse_spatial", "intelligent_transportation", "av_caption_vqa", "av_3d_grounding")
BASES = ("models/tiny-base", "models/tiny-qwen3")  # one of each family
RL = ("video_rewards_rl",)  # of the five, the one that trains with rewards
STEPS = {"train.max_num_steps": 2, "train.epoch": 2, "train.train_batch_per_replica": 8,
         "train.train_policy.mini_batch": 8}  # fmt: skip
STEP = {"train.max_num_steps": 1, "train.train_batch_per_replica": 32, "train.train_policy.mini_batch": 32,
        "rollout.batch_size": 4}  # fmt: skip


def job(name: str, folder: Path, base: str = BASES[0]) -> tuple[Config, str]:
    """Returns (configuration of two steps from a tiny base, or one of GRPO, the recipe's loader file).

    Builds the data below `folder`.
    """
    file, loader, build = JOBS[name]
    bound = {"train.train_policy.dataset.name": str(build(folder)), "policy.model_name_or_path": base}
    config = Config.load(f"configs/recipes/{file}.toml").edit(bound)
    if name in RL:
        return config.edit(STEP), loader
    return config.edit(STEPS | {"validation.enable": False}), loader


def defined(recipe: str, name: str) -> Callable:
    """Returns a function that a cell of the recipe's notebook defines; of the cell, only it and the imports run."""
    cells = nbformat.read(ROOT / f"notebooks/recipes/{recipe}.ipynb", 4).cells
    tree = ast.parse(next(cell.source for cell in cells if f"def {name}(" in cell.source))
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))]
    exec(compile(tree, recipe, "exec"), space := {})
    return space[name]


def _falling(split: str) -> Callable[[Path], Path]:
    return lambda folder: falling.build(folder / "falling", {"train": 20, "sft": 20}) / f"{split}.csv"


def _warehouse(folder: Path) -> Path:
    official = warehouse.build(folder / "official", {"train": 16})
    warehouse_vqa.convert(official, folder / "warehouse", "train", brief=True)
    return folder / "warehouse"


def _junction(folder: Path) -> Path:
    return junction.build(folder / "junction", {"train": 8}, kinds=("signal", "vehicle"))


def _drive(folder: Path) -> Path:
    return drive.build(folder / "drive", {"train": 16}, {"train": 0.5})


def _lanes(folder: Path) -> Path:
    return lanes.build(folder / "lanes", {"train": 16})


JOBS = {
    "video_rewards": ("video_rewards_tiny_sft", "data_tools/videophy2.py", _falling("sft")),
    "video_rewards_rl": ("video_rewards_tiny_rl", "data_tools/videophy2.py", _falling("train")),
    "warehouse_spatial": ("warehouse_spatial_tiny", "data_tools/warehouse_vqa.py", _warehouse),
    "intelligent_transportation": ("intelligent_transportation_tiny", "data_tools/wts_vqa.py", _junction),
    "av_caption_vqa": ("av_caption_vqa_tiny", "data_tools/av_caption.py", _drive),
    "av_3d_grounding": ("av_3d_grounding_tiny", "data_tools/av_grounding.py", _lanes),
}
