"""The doctor: what this machine has, what it lacks, the line that mends it, and what it can run.

Why: a missing redis-server, a driver that is too old or three visible GPUs show up minutes into a run, deep in a stack
trace. Here all of it is one table, in seconds, without importing PyTorch or the engine, and it never raises. "Is my
machine enough?" is answered by the planner, for the GPUs that were found and the files in configs/.

    doctor.examine()                    # notebooks/setup.ipynb
    python -m cookbook.doctor --json    # exit 1 where not even the tiny local run is possible

    checks    what is looked at: a row a check, of a name, a probe and a judge
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookbook import runs
from cookbook.config import Config, plan
from cookbook.config.rules import View, gpus_needed
from cookbook.config.schema import LENGTH
from cookbook.display.tables import MISSING, WARNING, Check, as_html, as_text
from cookbook.doctor import checks
from cookbook.doctor.checks import GPU

UNKNOWN = (WARNING, "could not be examined")
ABLE = "What this machine can run"
SAMPLES, TOKENS = 10_000, 1_500  # what a training set and one of its samples are taken to be
LOCAL = ("Python", "torch", "transformers", "av", "tiny base", "memory", "disk for runs")
ENGINE = (*LOCAL, "cosmos-rl", "qwen-vl-utils", "GPUs", "bfloat16", "CUDA", "redis-server", "/opt", "host name")
SEVEN_B = (*ENGINE, "HF_HOME")
# what each run needs, and its shipped files for the engine, the widest first: the first one that fits counts
SIZES = {
    "tiny, local": (LOCAL, ()),
    "tiny, cosmos-rl": (ENGINE, ("tiny_sft.toml",)),
    "LoRA 7B": (SEVEN_B, ("sft_1gpu_lora.toml",)),
    "SFT 7B": (SEVEN_B, ("sft_8gpu.toml", "sft.toml", "sft_2gpu.toml", "sft_1gpu_141gb.toml")),
    "RL 7B": (SEVEN_B, ("rl_8gpu.toml", "rl.toml", "rl_2gpu.toml", "rl_1gpu_lora.toml")),
    "LoRA Reason2-2B": (SEVEN_B, ("reason2/2b_lora_1gpu.toml",)),
    "SFT Reason2-2B": (SEVEN_B, ("reason2/2b_sft_1gpu.toml",)),
    "RL Reason2-2B": (SEVEN_B, ("reason2/2b_rl_1gpu.toml",)),
    "LoRA Reason2-8B": (SEVEN_B, ("reason2/8b_lora_1gpu.toml",)),
    "SFT Reason2-8B": (SEVEN_B, ("reason2/8b_sft_8gpu.toml", "reason2/8b_sft_4gpu.toml")),
    "RL Reason2-8B": (SEVEN_B, tuple(f"reason2/8b_rl_{n}gpu.toml" for n in (8, 4, "lora_1"))),
}


@dataclass(frozen=True)
class Ability:
    """A size of run: whether it is possible here, why (not), and its command."""

    name: str
    possible: bool
    reason: str
    command: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return "yes" if self.possible else "no", self.name, self.reason, self.command if self.possible else ""


@dataclass(frozen=True)
class Examination:
    """What was found: one check a line, and what this machine can run."""

    checks: tuple[Check, ...]
    abilities: tuple[Ability, ...]

    @property
    def ok(self) -> bool:
        """Whether the tiny local run is possible, and so every notebook."""
        return self.abilities[0].possible

    def _summary(self) -> str:
        missing, warnings = (sum(check.status == status for check in self.checks) for status in (MISSING, WARNING))
        return f"{len(self.checks)} checks: {missing} missing, {warnings} warnings"

    def __getitem__(self, name: str) -> Check | Ability:
        return {row.name: row for row in (*self.checks, *self.abilities)}[name]

    def __repr__(self) -> str:
        found, able = (as_text(row.cells for row in rows) for rows in (self.checks, self.abilities))
        return f"{found}\n\n{ABLE}:\n{able}\n\n{self._summary()}"

    def _repr_html_(self) -> str:
        found = as_html(("", "checked", "found", "mend it with"), (row.cells for row in self.checks))
        able = as_html(("", "run", "why", "command"), (row.cells for row in self.abilities))
        return f"<p>{self._summary()}</p>{found}<p><b>{ABLE}</b></p>{able}"


def examine() -> Examination:
    """Returns the report on this machine, within seconds. Raises nothing: what cannot be examined is a warning."""
    everyone = _safe(checks.query_gpus, checks.parse, [])
    gpus = checks.visible(everyone, os.environ)
    rows = checks.all_checks(gpus, len(everyone) - len(gpus), os.environ, Path.home())
    found = tuple(Check(name, *_safe(probe, judge, UNKNOWN)) for name, probe, judge in rows)
    free = _safe(runs.path, checks.room, None) or 0.0
    return Examination(found, tuple(can_run(found, gpus, free * 1e9 / 2**30)))


def _safe(probe: Callable[[], Any], judge: Callable[[Any], Any], otherwise: Any) -> Any:
    """Returns the judgement, or `otherwise` where either fails: the doctor must outlive the illness."""
    try:
        return judge(probe())
    except Exception:
        return otherwise


def can_run(found: Sequence[Check], gpus: Sequence[GPU], free_gib: float) -> Iterator[Ability]:
    """Yields every size of run. `free_gib`: of the disk where runs go."""
    missing = {check.name: check.found for check in found if check.status == MISSING}
    for name, (needs, files) in SIZES.items():
        # where there is no GPU at all, the plan says how many the smallest file takes
        lacks = [f"{need}: {missing[need]}" for need in needs if missing.get(need, "none") != "none"]
        try:
            yield _ability(name, lacks, files, gpus, free_gib)
        except Exception as error:  # a configuration that somebody is editing must not stop the doctor
            yield Ability(name, False, f"its configuration cannot be planned ({type(error).__name__})", "")


def _ability(name: str, lacks: list[str], files: Sequence[str], gpus: Sequence[GPU], free_gib: float) -> Ability:
    """Returns the ability by its first file that fits these GPUs; where none does, by its smallest."""
    if not files:
        return Ability(name, not lacks, "; ".join(lacks) or "one process, on CPU or one GPU", "make tutorial")
    gib = min((g.total_gib for g in gpus), default=0)
    for file in files:
        config = Config.load(f"configs/{file}")
        tokens, needed = min(TOKENS, config[LENGTH] or TOKENS), sum(gpus_needed(View(config)))
        planned = plan(config, gpus=needed, gpu_gib=gib, samples=SAMPLES, tokens=tokens)
        if planned.fits and needed <= len(gpus):
            break
    else:
        takes = f" takes {needed} GPU{'s' if needed > 1 else ''}, {len(gpus) or 'none'} found"
        lacks.append(f"configs/{file}" + (takes if needed > len(gpus) else f": {'; '.join(planned.why)}"))
    if planned.disk_gib > free_gib:
        lacks.append(f"the steps that configs/{file} keeps take {planned.disk_gib:.0f} GiB, {free_gib:.0f} are free")
    fits = (
        f"configs/{file}: {planned.peak_gib:.1f} of {gib:.0f} GiB at the peak, {needed} x GPU, "
        f"{planned.disk_gib:.1f} GiB of disk, with samples of {tokens:,} tokens"
    )
    loader = re.search(r"data_tools/\w+\.py", config.text())[0]  # every shipped file names its own
    command = f"python -m cookbook.engine --config configs/{file} --run mine/{Path(file).stem} {loader}"
    return Ability(name, not lacks, "; ".join(lacks) or fits, command)
