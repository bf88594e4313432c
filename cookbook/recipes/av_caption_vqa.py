"""The caption recipe in a few calls: the toy drive, a start that knows the form, SFT, and a verdict for every field.

Why: notebooks/recipes/av_caption_vqa.ipynb explains the steps, and the slow test runs the same lines for three seeds.
A mean over fields hides the one that got worse; here each field is compared on its own, and the report names it.

    config = data("av_caption", seed=0)
    start(config, "av_caption")                     # runs/av_caption/start: writes JSON, always the same
    export = train(config, "av_caption")
    found = compare_fields(*evaluate("av_caption").values())
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cookbook import pipeline, runs
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample
from cookbook.evaluation import predictions
from cookbook.evaluation.metrics.structures import Field, compare_fields, field_right, fields, same
from cookbook.evaluation.predict import predict
from cookbook.runs import ROOT, named
from data_tools import av_caption
from data_tools.worlds import drive

CONFIG = "configs/recipes/av_caption_vqa_tiny.toml"
CONTRACT = "configs/prompts/av_caption_tiny.yaml"
LOADER = "data_tools/av_caption.py"
CLIPS = {"template": 160, "train": 320, "test": 120}
TRAIN_VIOLATIONS, TEST_VIOLATIONS = 0.7, 0.05  # picked because something happens; as the road is
__all__ = ["compare_fields"]  # its user is the notebook
LONGEST = 112  # tokens of a caption of four fields, and some room
START_EPOCHS = 6  # 120 steps: after 80, three captions in four are not yet JSON


def contract() -> Contract:
    """Returns the contract of the toy drive."""
    return Contract.load(ROOT / CONTRACT)


def data(
    name: str, seed: int = 0, violations: float = TRAIN_VIOLATIONS, clips: Mapping[str, int] | None = None
) -> Config:
    """Build the world in `runs/NAME/data`; `violations` is their share in training. Returns the bound configuration."""
    shares = {"train": violations, "test": TEST_VIOLATIONS}
    folder = drive.build(runs.path(name) / "data", clips or CLIPS, shares, seed)
    return Config.load(CONFIG).edit({pipeline.DATASET: named(folder)})


def samples(name: str, split: str) -> list[Sample]:
    """Returns the captions of a split, with the fields and the question of the configuration."""
    stated = Config.load(CONFIG).table("custom")
    return av_caption.read(runs.path(name) / "data" / split, None, list(stated["fields"]), stated["question"])


def start(config: Config, name: str, seed: int = 0, engine: str = "local", gpus: int = 0) -> Path:
    """Teach the tiny base the form of the answer, by clips that all have one example caption. Returns the export."""
    form = {"train.train_policy.dataset.split": "template", "train.epoch": START_EPOCHS, "train.max_num_steps": 1000}
    return pipeline.train(pipeline.prepare(config.edit(form), f"{name}/start", LOADER, seed), engine, gpus)


def train(config: Config, name: str, seed: int = 0, engine: str = "local", gpus: int = 0) -> Path:
    """Run SFT from the start. Returns the last export, in `runs/NAME/sft`."""
    start = {pipeline.START: named(runs.path(name) / "start" / "sft")}
    return pipeline.train(pipeline.prepare(config.edit(start), name, LOADER, seed), engine, gpus)


def evaluate(name: str) -> dict[str, list[dict]]:
    """Let start and SFT caption the test clips. Returns the rows by model, which also lie in `runs/NAME/evaluation`."""
    items, rows = samples(name, "test"), {}
    for model_name, path in {"start": f"{name}/start/sft", "sft": f"{name}/sft"}.items():
        model, encoder = pipeline.open_model(runs.path(path), contract())
        rows[model_name] = predict(model, encoder, items, model_name, limit=LONGEST)
        predictions.save(rows[model_name], runs.path(name) / "evaluation" / f"predictions_{model_name}.jsonl")
    return rows


# ---- field by field ---------------------------------------------------------------------------------------------


def recall(rows: Sequence[dict], name: str, value: object) -> tuple[int, int]:
    """Returns (found, of): in how many clips where the field truly has this value the answer has it too."""
    true = [row for row in rows if same(fields(row["reference"]).get(name), value)]
    return sum(field_right(true, name)), len(true)


def headline(found: Sequence[Field]) -> str:
    """Returns one sentence that names what got worse before what got better."""
    worse, better = ([f for f in found if f.verdict == word] for word in ("worse", "better"))
    bad = ", ".join(f"{f.name} {f.before:.2f} → {f.after:.2f}" for f in worse)
    good = ", ".join(f"{f.name} {f.before:.2f} → {f.after:.2f}" for f in better)
    return f"Worse after SFT: {bad or 'no field'}. Better: {good or 'no field'}."


def table(found: Sequence[Field]) -> str:
    """Returns the fields as a Markdown table."""
    lines = ["| field | before | after | 95 % | constant answer | p | verdict |", "|---|---|---|---|---|---|---|"]
    for f in found:
        ci = f"{f.ci95[0]:.2f}–{f.ci95[1]:.2f}"
        shown = f"**{f.verdict}**" if f.verdict == "worse" else f.verdict
        lines.append(f"| {f.name} | {f.before:.2f} | {f.after:.2f} | {ci} | {f.constant:.2f} | {f.p:.1g} | {shown} |")
    return "\n".join(lines)


def report(name: str, found: Sequence[Field]) -> Path:
    """Write `runs/NAME/report.md`: the headline, and every field. Returns its path."""
    path = runs.path(name) / "report.md"
    path.write_text(f"# {name}\n\n{headline(found)}\n\n{table(found)}\n", encoding="utf-8")
    return path
