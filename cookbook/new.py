"""Write a job of your own: configurations, contract and commands in `jobs/NAME`, begun from the shipped ones.

Why: who has data should change a few values, not write files. What the data decide (`cookbook.jobs.fitted`) is set, and
the reward of RL is one that the right answers earn; all of it can be edited before anything runs.

    python -m cookbook.new mine --data FOLDER
    python -m cookbook.new mine --data FOLDER --config configs/sft_1gpu_lora.toml   # and RL's file of that name
    python -m cookbook.tutorial --job mine               # from data to report
"""

import math
import re
import shlex
import shutil
import sys
from pathlib import Path

from cookbook import runs
from cookbook.config import Config, plan
from cookbook.config.models import shape_of
from cookbook.config.rules import View, gpus_needed, steps_per_epoch, total_steps
from cookbook.config.schema import BATCH, LENGTH, MINI, RESPONSE
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError
from cookbook.display.terminal import command_parser
from cookbook.gym import rewards_that_work
from cookbook.runs import ROOT, named
from cookbook.training.rewards import WEIGHTS
from data_tools import loading
from data_tools.formats.source import safe_id

STEPS, MOST = {"sft": 50, "grpo": 30}, 50  # steps at least, and passes at most
START = "policy.model_name_or_path"
SWAPS = (("sft", "rl"), ("lora", "rl_lora"), ("rl_lora", "lora"), ("rl", "sft"))  # in names of files of one scale
NOT_COUNTED = """Lengths are not counted: {base} is not on this disk. The files have the contract's tokens of each clip,
and rather too many for words. Fetch it (`hf download NAME --local-dir FOLDER`), make the job with `--base FOLDER`.
"""
README = """# {name}

{counts} samples, read by `{loader}`. {steps}
Change what you like in the files here: the notebooks take them for the job of this name.

    python -m cookbook.config lint jobs/{name}/*.toml    # what is wrong with them, by line
{plans}    python -m cookbook.tutorial --job {name}             # from data to report: all of what follows
    papermill notebooks/sft.ipynb runs/{name}/sft.ipynb -p job {name}
    papermill notebooks/rl.ipynb runs/{name}/rl.ipynb -p job {name}
    papermill notebooks/evaluation.ipynb runs/{name}/evaluation.ipynb -p job {name}

The first step by cosmos-rl alone, on a machine with GPUs; adapters are then to be merged (`cookbook.checkpoint merge`):

    python -m cookbook.engine --config jobs/{name}/{first}.toml --run {name}/{first} {loader}
"""


def pair(sft: str, rl: str, base: str = "") -> dict[str, str]:
    """Returns the files to begin with, of one scale: one that is not named is the other's by its name. DataError."""
    if shape_of(base) and not (sft or rl):
        raise DataError(f"{base}: no base for the tiny files; add --config, such as configs/reason2/8b_lora_1gpu.toml")
    sft = sft or ("" if rl else "configs/tiny_sft.toml")
    for file in filter(None, (sft, rl)):
        if not (ROOT / file).is_file():
            raise DataError(f"{file}: there is no such file")
    file = Path(sft or rl)
    names = (file.with_name(re.sub(rf"(^|_){old}(?=[_.])", rf"\1{new}", file.name)) for old, new in SWAPS)
    other = next((str(name) for name in names if name != file and (ROOT / name).is_file()), "")
    if not (other or (sft and rl)):
        raise DataError(f"{file}: add {'--rl-config' if sft else '--config'} FILE, for the same base and as many GPUs")
    return {"sft": sft or other, "rl": rl or other}


def write_job(name: str, data: str, configs: dict[str, str], base: str = "", **how: str) -> Path:
    """Write `jobs/NAME`: a configuration for each step that the data allow, contract, README. Returns the folder.

    `configs` are the shipped files to begin with, by step; `how` goes to `jobs.fitted`. Raises DataError where the
    folder is there already, and for what cannot be used; then nothing is left of it.
    """
    for said, place in (("data", data), ("base", base)):
        here = Path(place).expanduser().exists() or (ROOT / place).exists()
        if place.startswith(("/", "~", ".")) and not here:
            raise DataError(f"{place}: there is no such folder or file; --{said} takes one, or a name of the hub")
    if not data.strip():
        raise DataError("--data is empty; it takes a folder, a file, or a name of the hub")
    if (given := how.get("contract")) and not (ROOT / given).is_file():
        raise DataError(f"{given}: there is no such contract; configs/prompts/ holds those of the project")
    if shlex.quote(name) != name:
        raise DataError(f"{name}: would have to be quoted in commands; take letters, digits, - and _")
    from cookbook import jobs

    folder = jobs.FOLDER / safe_id(name)
    if name == jobs.NAME:
        raise DataError(f"{name} is the job of the toy road; give yours another name")
    if folder.exists():
        raise DataError(f"{named(folder)} is there already; edit it, delete it, or give another name")
    try:
        return _write(folder, data, configs, base, how)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(folder: Path, data: str, configs: dict[str, str], base: str, how: dict[str, str]) -> Path:
    # in here: each of the processes that read the clips imports this module first, and would wait for torch
    from cookbook import jobs

    name, begun = folder.name, {step: Config.load(file) for step, file in configs.items()}
    for step, config in begun.items():
        if (config.kind == "grpo") != (step == "rl"):
            raise DataError(f"{configs[step]}: is of {config.kind}; --config takes one of SFT, --rl-config one of RL")
    folder.mkdir(parents=True)
    if given := how.get("contract"):  # the job's own from here on
        how = how | {"contract": named(shutil.copy(ROOT / given, folder / "contract.yaml"))}
    start = {START: base} if base else {}
    made = {}
    made["sft"], found = jobs.fitted(begun["sft"].edit(start), name, data, folder=folder, **how)
    bound = {key: made["sft"].table("custom")[key] for key in ("contract", "loader")}
    splits = found.usable(loading.loader(bound["loader"]).load(made["sft"]))
    contract = Contract.load(ROOT / bound["contract"])
    written = all(sample.target is not None for sample in splits["train"])
    works = rewards_that_work(splits["train"], contract)
    if works:
        fits, _ = jobs.fitted(begun["rl"].edit({START: made["sft"][START]}), name, data, found=found, **bound)
        made["rl"] = fits.edit({WEIGHTS: works} | ({START: named(runs.path(name) / "sft")} if written else {}))
    reasons = [] if written else ["No sample has a written answer, so there is no SFT."]
    reasons += [f"RL pays for {', '.join(works)}." if works else "No reward can check these answers: there is no RL."]
    if not written:
        del made["sft"]
    if not made:
        raise DataError(f"{data}: nothing can be trained. {' '.join(reasons)}")
    usable = found.counts["train"]["usable"]
    made = {step: _seen_often(config, usable) for step, config in made.items()}
    for step, config in made.items():
        head = f"# {step.upper()} of the job {name}, begun from {configs[step]}; what the data decided is bare.\n"
        own = {"logging.experiment_name": f"{name}/{step}", "train.output_dir": f"runs/{name}/{step}"}
        text = _told(config.edit(own), begun[step])
        (folder / f"{step}.toml").write_text(head + text, encoding="utf-8")
    if out := found.quarantine:
        total = sum(counts["samples"] for counts in found.counts.values())
        place = named(runs.path(name) / "data" / loading.PASSPORT)
        told = f"{len(out)} of {total} samples are left out, such as {out[0].id}: {out[0].reason}"
        reasons.append(f"{told} ({place} has them all).")
    bare = [sample.id for sample in splits["train"] if not sample.options]
    if works and 0 < len(bare) < len(splits["train"]):
        told = f"{len(bare)} of {len(splits['train'])} training samples have no choices to read, such as {bare[0]}"
        reasons.append(f"{told}; single_choice is for data that have them all.")
    reasons += [] if any(found.tokens.values()) else [NOT_COUNTED.format(base=begun["sft"].edit(start)[START])]
    counts = ", ".join(f"{counts['usable']} {split}" for split, counts in found.counts.items())
    text = README.format(
        name=name,
        counts=counts,
        loader=bound["loader"],
        steps=" ".join(reasons),
        first=next(iter(made)),
        plans=_plans(name, made, usable, jobs.counted(found, begun["sft"])),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def _seen_often(config: Config, samples: int) -> Config:
    """Returns a configuration with passes enough for STEPS steps, MOST at most, and a tenth of them to warm up.

    A shipped file is for thousands of samples: of 44 it would make one step, at no learning rate.
    """
    view = View(config)
    if not view.is_rl:
        batch = max(1, min(view[BATCH], samples // (8 * max(1, view["policy.parallelism.dp_shard_size"]))))
        mini = max(n for n in range(1, min(view[MINI], batch) + 1) if batch % n == 0)
        config = config.edit({BATCH: batch, MINI: mini})
    wanted = math.ceil(STEPS[config.kind] / max(steps_per_epoch(View(config), samples), 0.01))
    config = config.edit({"train.epoch": max(view["train.epoch"], min(MOST, wanted))})
    warm = min(view["train.optm_warmup_steps"], total_steps(View(config), samples) // 10)
    return config.edit({"train.optm_warmup_steps": warm})


def _plans(name: str, made: dict[str, Config], samples: int, counted: list[tuple[int, int]]) -> str:
    """Returns the lines that plan the job's files on GPUs of 80 GB, each with its answer; "" for a small base."""
    lines = []
    for step, config in made.items() if shape_of(next(iter(made.values()))[START]) else ():
        answered = config[RESPONSE] if step == "rl" else 0
        sizes = (prompt + answer * (step == "sft") for prompt, answer in counted)
        tokens, gpus = max(sizes, default=config[LENGTH] - answered), sum(gpus_needed(View(config)))
        found = plan(config, gpus=gpus, gpu_gib=80, samples=samples, tokens=tokens)
        told = f"{found.peak_gib:.0f} GiB, {found.steps} steps" if found.fits else f"does not fit; {found.why[-1]}"
        known = f"--gpus {gpus} --gpu-gib 80 --samples {samples} --tokens {tokens}"
        lines.append(f"    python -m cookbook.config plan jobs/{name}/{step}.toml {known}\n    #   {told}\n")
    return "".join(lines)


def _told(config: Config, begun: Config) -> str:
    """Returns the text of a configuration without its head and without the comments behind what was changed."""
    lines = config.text().splitlines()
    for key in (key for key in begun.stated if config.stated.get(key, begun.stated[key]) != begun.stated[key]):
        number = config.line(key) - 1
        lines[number] = re.sub(r"\s+#[^\"]*$", "", lines[number])
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[first:]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line. Returns 0, or 1 after one line on stderr where no job can be made."""
    parser = command_parser("cookbook.new", __doc__)
    parser.add_argument("name", help="the job's folder below jobs/ and runs/")
    parser.add_argument("--data", required=True, help="a folder, a file, or a dataset of the Hugging Face hub")
    parser.add_argument("--format", default="", help=f"default: recognised; one of {', '.join(loading.LOADERS)}")
    parser.add_argument("--loader", default="", help="a file with load(config); default: the format's own")
    parser.add_argument("--contract", default="", help="prompt, answer format, vision limits; default: by the data")
    parser.add_argument("--base", default="", help="the checkpoint to train; default: that of the configuration")
    parser.add_argument("--config", default="", help="of SFT, to begin with; default: the tiny one")
    parser.add_argument("--rl-config", default="", help="of RL; default: the one whose name goes with --config")
    args = parser.parse_args(arguments)
    how = {"format": args.format, "loader": args.loader, "contract": args.contract}
    print(f"reading {args.data}: clips are opened, tokens are counted; half a minute for 100", file=sys.stderr)
    try:
        configs = pair(args.config, args.rl_config, args.base)
        folder = write_job(args.name, args.data, configs, args.base, **how)
    except (ValueError, OSError) as error:
        print(f"new: {error}", file=sys.stderr)
        return 1
    print((folder / "README.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
