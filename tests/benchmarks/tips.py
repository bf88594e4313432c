"""The usual tips of post-training, measured on the toy road world: what each is worth here, or that it is not.

Why: "lower the rate", "start with a subset", "clip the gradients" are said of every model and rarely shown. These are
short SFT runs from the tiny base that differ in one thing each, and the same questions afterwards. A tip that does not
hold here is reported as such; a tiny model for a minute is no proof for a large one.

    python tests/benchmarks/tips.py --seeds 0 1 2          # runs/tips/tips.json, and the table of LOG.md
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from cookbook import checkpoint, jobs, pipeline, runs
from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, message, text
from cookbook.display.tables import Table
from cookbook.runs import Run
from cookbook.training.sft import sft
from cookbook.training.validation import answers
from data_tools import road_vqa
from data_tools.road_vqa import first_clips

RATE, CLIP = "train.optm_lr", "train.optm_grad_norm_clip"
STEPS, QUARTER = 40, 4  # the runs on a quarter of the clips have a quarter of the steps
QUESTIONS, LONGEST = 150, 48
WHOLE = {"custom.clips": -1, "custom.reasoned": 1.0}
RATES = {"low": 1e-4, "right": 1e-3, "high": 1e-2}  # for the tiny model; a 7B model wants 1e-6 to 5e-6
NEVER = 1e9  # a norm that no gradient reaches: clipping off
SPIKE = 1.5  # times the median loss of the five steps before
EVERY = (1, 10, 100)  # steps between two checkpoints
Result = Mapping[str, float]


@dataclass(frozen=True)
class Arm:
    """One run: what is changed in the configuration, which share of the clips, and whether its targets reason."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    share: int = 1  # one clip in so many
    reasons: bool = True


ARMS = {
    **{name: Arm({RATE: rate}) for name, rate in RATES.items()},
    **{f"{name}, quarter": Arm({RATE: rate}, QUARTER) for name, rate in RATES.items()},
    "right, no reasoning": Arm({RATE: RATES["right"]}, reasons=False),
    **{f"{name}, no clipping": Arm({RATE: RATES[name], CLIP: NEVER}) for name in ("right", "high")},
}


# ---- one run ----------------------------------------------------------------------------------------------------


def train(name: str, label: str, seed: int, steps: int = STEPS, questions: int = QUESTIONS) -> dict[str, float]:
    """Run one arm in `runs/NAME/seedN/LABEL`. Returns its figures: loss, norm, accuracy, tokens, seconds."""
    arm, job = ARMS[label], jobs.job(f"{name}/seed{seed}", seed=seed, changes=WHOLE)
    fixed = {"train.max_num_steps": steps // arm.share, "train.epoch": 9, "train.optm_warmup_steps": 3}
    config = Config.load("configs/tiny_sft.toml").edit(fixed | {"validation.enable": False} | arm.changes)
    samples = first_clips(job.splits["train"], road_vqa.CLIPS["train"] // arm.share)
    if not arm.reasons:
        samples = [bare(sample, job.contract) for sample in samples]
    torch.manual_seed(seed)
    model, encoder = pipeline.open_model(job.base, job.contract)
    run = Run(f"{job.name}/{label.replace(', ', '_').replace(' ', '_')}", seed=seed)
    started = time.monotonic()
    sft(config, samples, [], encoder, model, run, stop_on_alarm=False)
    took = (time.monotonic() - started) / (steps // arm.share)
    return learned(run.metrics()) | said(model, encoder, job.unseen(questions)) | {"step_seconds": took}


def bare(sample: Sample, contract: Contract) -> Sample:
    """Returns the sample with a target that holds the right answer and no reasoning, in the same form."""
    target = contract.write_answer("", sample.answer)
    return replace(sample, messages=(*sample.messages[:-1], message("assistant", text(target))))


def learned(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean loss of the last five steps, the largest gradient norm, and how often the loss jumped."""
    losses = [row["train/loss_avg"] for row in rows]
    return {
        "loss": sum(losses[-5:]) / len(losses[-5:]),
        "largest_norm": max(row["optimizer/grad_norm"] for row in rows),
        "spikes": sum(loss > SPIKE * median(losses[i - 5 : i]) for i, loss in enumerate(losses) if i >= 5),
    }


def said(model, encoder: Encoder, asked: Sequence[Sample]) -> dict[str, float]:
    """Returns accuracy, mean tokens of an answer, and seconds of generation; the clips are read before."""
    for sample in asked:
        encoder.tokens(sample, generate=True)
    started = time.monotonic()
    texts = answers(model, encoder, asked, LONGEST)
    seconds = time.monotonic() - started
    right = [encoder.contract.read(words, s) == s.answer for words, s in zip(texts, asked)]
    tokens = [len(encoder.tokenizer.encode(words)) for words in texts]
    return {"accuracy": sum(right) / len(asked), "tokens": sum(tokens) / len(asked), "answer_seconds": seconds}


def save_seconds(name: str, times: int = 5) -> float:
    """Returns the median seconds of one export of the tiny model."""
    model, encoder = pipeline.open_model(jobs.BASE, jobs.toy_contract())
    taken = []
    for _ in range(times):
        started = time.monotonic()
        checkpoint.export(model, encoder, runs.path(name) / "saved", step=1)
        taken.append(time.monotonic() - started)
    return median(taken)


# ---- what it says -----------------------------------------------------------------------------------------------


def saving(save: float, step: float) -> dict[int, tuple[float, float]]:
    """Returns, by steps between two checkpoints, (share of the time that saving takes, seconds that a crash costs).

    A crash comes at any step alike, so on the mean it costs half of what lies between two checkpoints.
    """
    return {every: (save / (save + every * step), every * step / 2) for every in EVERY}


def rows(found: Mapping[str, Result], save: float) -> dict[str, str]:
    """Returns what one seed measured: each arm, whether a quarter of the clips ranks the rates alike, and saving."""
    shown = "{accuracy:.2f}, {tokens:.0f} tokens in {answer_seconds:.1f} s, norm {largest_norm:.3g}, {spikes} spikes"
    whole, quarter = (sorted(RATES, key=lambda n: -found[n + end]["accuracy"]) for end in ("", ", quarter"))
    costs = saving(save, found["right"]["step_seconds"])
    return (
        {label: shown.format(**result) for label, result in found.items()}
        | {"same best rate by a quarter": str(quarter[0] == whole[0]), "same order": str(quarter == whole)}
        | {f"checkpoint every {n} steps": "{:.1%}, a crash costs {:.1f} s".format(*cost) for n, cost in costs.items()}
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--name", default="tips", help="the folder below runs/")
    args = parser.parse_args(arguments)
    save, found = save_seconds(args.name), {}
    for seed in args.seeds:
        found[seed] = {label: train(args.name, label, seed) for label in ARMS}
        kept = json.dumps({"seeds": found, "save_seconds": save}, indent=1)
        (runs.path(args.name) / "tips.json").write_text(kept + "\n", encoding="utf-8")
    columns = [rows(results, save) for results in found.values()]
    print(Table(["", *(f"seed {seed}" for seed in found)], [[tip, *(c[tip] for c in columns)] for tip in columns[0]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
