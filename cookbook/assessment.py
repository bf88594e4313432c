"""The last step of the main job: base, SFT and RL answer the same unseen questions, with controls, and a report.

Why: as in cookbook/pipeline.py, a notebook explains and the step itself stands here; `evaluation.ipynb` uses it.

    comparison, rows = evaluate("tutorial")
    report("tutorial", comparison, rows, control_rows=controls("tutorial", "rl"))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cookbook import pipeline, runs
from cookbook.checkpoint.lineage import lineage, tree
from cookbook.config import Config
from cookbook.data.answers import choices_of
from cookbook.data.encoder import Encoder
from cookbook.evaluation.controls import blind, circular, other_clips, shuffled, single_frame, with_frames
from cookbook.evaluation.predict import predict
from cookbook.evaluation.predictions import judge
from cookbook.evaluation.report import Report
from cookbook.evaluation.scores import compare
from cookbook.runs import MANIFEST, named, read_metrics
from cookbook.training.validation import best_step

MODELS = ("base", "sft", "rl")


def chosen(name: str, step: str) -> str:
    """Returns the checkpoint that counts: the best by held-out accuracy where that was measured, or the last."""
    best = best_step(f"{name}/{step}")
    return named(runs.path(f"{name}/{step}")) + (f"/safetensors/step_{best}" if best is not None else "")


def evaluate(name: str, questions: int | None = None, seed: int = 0) -> tuple[dict, dict[str, list[dict]]]:
    """Let base, SFT and RL answer the held-out questions. Returns (comparison, rows by model).

    Writes `runs/NAME/evaluation/predictions_MODEL.jsonl`; answers that stand there already, of the same weights, are
    not asked for again. Models that are missing are trained first.
    """
    if not (runs.path(name) / "rl" / "safetensors").exists():
        pipeline.train_rl(Config.load("configs/tiny_rl.toml"), name, seed)
    items = pipeline.samples(name, "test", seed)[:questions]
    rows = {}
    for model_name in MODELS:
        model, encoder = pipeline.open_model(_checkpoint(name, model_name))
        path = runs.path(name) / "evaluation" / f"predictions_{model_name}.jsonl"
        rows[model_name] = predict(model, encoder, items, model_name, path=path)
    train = [judge(s, "", pipeline.contract()) for s in pipeline.samples(name, "train", seed)]
    return compare(rows, train), rows


def _checkpoint(name: str, model_name: str) -> str:
    return pipeline.BASE if model_name == "base" else chosen(name, model_name)


def controls(name: str, model_name: str, questions: int | None = None, seed: int = 0) -> dict[str, list[dict]]:
    """Let a model answer held-out questions with less to see. Returns rows by control.

    A model that looks at the clip falls back to guessing; where it does not, the questions do not need what was taken
    away. Choices come once behind each letter. Writes `runs/NAME/evaluation/controls_MODEL_CONTROL.jsonl`.
    """
    items = pipeline.samples(name, "test", seed)[:questions]
    model, encoder = pipeline.open_model(_checkpoint(name, model_name))
    asked = {
        "blind": (encoder, blind(items)),
        "other clips": (encoder, other_clips(items)),
        "single frame": (with_frames(encoder, single_frame), items),
        "shuffled frames": (with_frames(encoder, shuffled), items),
        "turned options": (encoder, circular([s for s in items if choices_of(s.question)[1]])),
    }
    folder, rows = runs.path(name) / "evaluation", {}
    for control, (sees, part) in asked.items():
        path = folder / f"controls_{model_name}_{control.replace(' ', '_')}.jsonl"
        rows[control] = predict(model, sees, part, f"{model_name}, {control}", path=path)
    return {control: found for control, found in rows.items() if found}


def prompted(name: str, model_name: str, system: str, questions: int | None = None, seed: int = 0) -> list[dict]:
    """Let a model answer held-out questions under another system prompt: what words earn, without any training."""
    items = pipeline.samples(name, "test", seed)[:questions]
    model, encoder = pipeline.open_model(_checkpoint(name, model_name))
    other = Encoder(encoder.processor, replace(encoder.contract, system=system), encoder.config)
    return predict(model, other, items, f"{model_name}, prompted")


def report(
    name: str,
    comparison: dict,
    rows: dict[str, list[dict]],
    clips: int = 6,
    control_rows: Mapping[str, list[dict]] | None = None,
    notes: Sequence[str] = (),
    order: Sequence[str] = (),
) -> Path:
    """Write `runs/NAME/evaluation/comparison.json` and `runs/NAME/report.html`. Returns the report's path.

    `control_rows` are those of the last model, `notes` sentences beside the scores, `order` the tasks that only the
    order of the frames should answer. The configurations and the lineage of the last checkpoint come along.
    """
    root = runs.path(name)
    (root / "evaluation" / "comparison.json").write_text(json.dumps(comparison, indent=1), encoding="utf-8")
    texts = {"Lineage": tree(lineage(chosen(name, "rl")))}
    for file in (f"{step}/config.toml" for step in ("sft", "rl")):
        texts[file] = (root / file).read_text(encoding="utf-8")
    return Report(
        comparison,
        rows,
        sft=read_metrics(f"{name}/sft"),
        rl=read_metrics(f"{name}/rl"),
        controls=control_rows or {},
        manifest={step: json.loads((root / step / MANIFEST).read_text(encoding="utf-8")) for step in ("sft", "rl")},
        texts=texts,
        notes=notes,
        order=order,
        clips=clips,
        fps=pipeline.contract().vision.fps,
    ).write(root / "report.html")
