"""What this machine can run: each size of run yes or no, with the reason, from the shipped configurations.

Why: "is my machine enough?" has an answer before anything is downloaded. The planner takes the GPUs that were found
and the files in configs/; what is missing for the engine comes from the doctor's checks.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cookbook.config import Config, plan
from cookbook.config.rules import View, gpus_needed
from cookbook.config.schema import LENGTH
from cookbook.display.tables import MISSING, Check
from cookbook.doctor.checks import GPU

SAMPLES, TOKENS = 10_000, 1_500  # what a training set and one of its samples are taken to be
LOCAL = ("Python", "torch", "transformers", "av", "tiny base", "memory", "disk for runs")
ENGINE = (*LOCAL, "cosmos-rl", "qwen-vl-utils", "GPUs", "bfloat16", "CUDA", "redis-server", "/opt", "host name")
SEVEN_B = (*ENGINE, "HF_HOME")
# what each run needs, and its shipped files for the engine, the widest first: the first one that fits counts
SIZES = {
    "tiny, local": (LOCAL, ()),
    "tiny, cosmos-rl": (ENGINE, ("tiny_sft.toml",)),
    "LoRA 7B": (SEVEN_B, ("sft_1gpu_lora.toml",)),
    "SFT 7B": (SEVEN_B, ("sft_8gpu.toml", "sft.toml", "sft_2gpu.toml")),
    "RL 7B": (SEVEN_B, ("rl_8gpu.toml", "rl.toml", "rl_2gpu.toml")),
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
        """The four columns of its row."""
        return "yes" if self.possible else "no", self.name, self.reason, self.command if self.possible else ""


def can_run(checks: Sequence[Check], gpus: Sequence[GPU], free_gib: float) -> Iterator[Ability]:
    """Yields every size of run. `free_gib`: of the disk where runs go."""
    missing = {check.name: check.found for check in checks if check.status == MISSING}
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
    command = f"python -m cookbook.engine --config configs/{file} --run mine/{file.removesuffix('.toml')} {loader}"
    return Ability(name, not lacks, "; ".join(lacks) or fits, command)
