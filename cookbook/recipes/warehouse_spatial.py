"""The warehouse recipe in a few calls: the toy warehouse, converted as the real one is; answers by question category.

Why: notebooks/recipes/warehouse_spatial.ipynb explains the steps; the slow test runs the same lines for three seeds.

    config = data("warehouse", seed=0)
    export = pipeline.train(pipeline.prepare(config, "warehouse", LOADER))
    rows = evaluate("warehouse")                      # {"base": rows, "sft": rows}
    by_category(rows["sft"], train)
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cookbook import pipeline, runs
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.evaluation import predictions, scores
from cookbook.evaluation.predict import predict
from cookbook.runs import ROOT, named
from data_tools import formats, warehouse_vqa
from data_tools.worlds import STAMP, warehouse

CONFIG = "configs/recipes/warehouse_spatial_tiny.toml"
CONTRACT = "configs/prompts/warehouse_tiny.yaml"
LOADER = "data_tools/warehouse_vqa.py"
PICTURES = {"train": 1200, "val": 40, "test": 200}
CATEGORIES = warehouse_vqa.CATEGORIES


def contract() -> Contract:
    """Returns the contract of the toy warehouse."""
    return Contract.load(ROOT / CONTRACT)


def data(name: str, seed: int = 0, pictures: Mapping[str, int] | None = None) -> Config:
    """Build the world in the official layout and convert it. Returns the configuration, bound to the result.

    `runs/NAME/official` is what would be downloaded, `runs/NAME/converted` what training reads.
    """
    official = warehouse.build(runs.path(name) / "official", pictures or PICTURES, seed)
    converted, stamp = runs.path(name) / "converted", (official / STAMP).read_text()
    mark = converted / STAMP
    if not mark.is_file() or mark.read_text() != stamp:
        shutil.rmtree(converted, ignore_errors=True)
        for split in pictures or PICTURES:
            warehouse_vqa.convert(official, converted, split, brief=True)
        mark.write_text(stamp)
    return Config.load(CONFIG).edit({pipeline.DATASET: named(converted)})


def samples(name: str, split: str) -> list[Sample]:
    """Returns the converted questions of a split: train, validation or test."""
    return formats.read(runs.path(name) / "converted" / split, "llava")


def evaluate(name: str) -> dict[str, list[dict]]:
    """Let base and SFT answer the test questions. Returns the rows by model, also in `runs/NAME/evaluation`."""
    items, rows = samples(name, "test"), {}
    for model_name, path in {"base": Config.load(CONFIG)[pipeline.START], "sft": runs.path(name) / "sft"}.items():
        model, encoder = pipeline.open_model(path, contract())
        rows[model_name] = predict(model, encoder, items, model_name, limit=8)
        predictions.save(rows[model_name], runs.path(name) / "evaluation" / f"predictions_{model_name}.jsonl")
    return rows


def by_category(rows: Sequence[dict], train: Sequence[Sample]) -> dict[str, dict]:
    """Returns what `scores.by_category` finds, categories in their order; of `distance` in metres, less is better."""
    found = scores.by_category(rows, train)
    return {category: found[category] for category in CATEGORIES}


def lifted(before: Mapping[str, dict], after: Mapping[str, dict]) -> dict[str, bool]:
    """Returns for each category whether the score rose, and all of its interval lies on the right side of the habit.

    To rise from a model that cannot answer at all is no feat: the habit is the bar.
    """
    found = {}
    for category, new in after.items():
        sign = -1 if category == "distance" else 1
        worst = new["ci95"][1 if category == "distance" else 0]
        found[category] = sign * (new["score"] - before[category]["score"]) > 0 and sign * (worst - new["habit"]) > 0
    return found


def summary(name: str, tables: Mapping[str, Mapping[str, dict]]) -> Path:
    """Write `runs/NAME/summary.json`. Returns its path."""
    path = runs.path(name) / "summary.json"
    path.write_text(json.dumps(tables, indent=1))
    return path
