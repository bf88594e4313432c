"""What the README's first page shows was seen or is computed: terminal session, plan and price have one source."""

import re
import runpy
import subprocess

import pytest

from cookbook.config import Config, plan
from cookbook.runs import ROOT

README, LOG = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "LOG.md"))
SCRIPT = runpy.run_path(str(ROOT / ".ci/session.py"))
FIRST = README[: README.index("## Your own data")]
SEEN = """\
$ make tutorial
Took 5 s
RL    100.0 %  [90.0–100.0]  +60.0 points, p < 0.001
"""


def test_the_session_was_seen():
    session = SCRIPT["SESSION"].search(FIRST)[0]
    assert session == SCRIPT["SESSION"].search(LOG)[0], "python .ci/session.py"
    assert all(len(line) <= 80 for line in session.splitlines())
    assert SCRIPT["LIVE"].search(FIRST)[0] == SCRIPT["LIVE"].search(LOG)[0]


def test_of_a_recorded_session_what_overwrote_itself_is_gone():
    erase, told = "\r\x1b[K", SEEN.splitlines()[1:]
    recorded = f"Script started on a day\n{erase}[1/7] setup{erase}[1/7] setup  cell  3/9{erase}{told[0]}\r\n"
    recorded += "\r\n".join(told[1:]) + "\r\n\nScript done on a day\n"
    assert SCRIPT["visible"](recorded) == SEEN
    steps = "".join(f"{erase}[5/7] sft  {n}/9  loss 0.{n}  {9 - n} s left" for n in range(1, 4))
    assert SCRIPT["on_the_way"](f"{erase}[1/7] setup{steps}{erase}end") == "`[5/7] sft  2/9  loss 0.2  7 s left`"


def test_the_list_of_commands_fits_a_terminal_of_80_columns():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(listed) > 10 and max(map(len, listed)) <= 80


def test_the_environment_is_active_before_the_first_command_that_needs_it():
    needs = re.search(r"^(python|papermill|jupyter) ", README, flags=re.MULTILINE).start()
    assert README.index("\nsource .venv/bin/activate\n") < needs


PRICED = re.findall(r"^\| .*\| `(configs/\S+)` \| (\d+) \| ([\d.]+) \| \$ ([\d.]+) \|$", FIRST, flags=re.MULTILINE)


@pytest.mark.parametrize(("file", "gpus", "hours", "price"), PRICED)
def test_hours_and_prices_are_the_planner_s(file, gpus, hours, price):
    samples, tokens, gib = map(int, re.search(r"--samples (\d+) --tokens (\d+) --gpu-gib (\d+)", FIRST).groups())
    a_gpu_hour = float(re.search(r"\$ ([\d.]+) a GPU hour", FIRST)[1])
    config = Config.load(file)
    if config.kind == "grpo":
        config = config.edit({"train.max_num_steps": int(re.search(r"--steps (\d+)", FIRST)[1])})
    found = plan(config, gpus=int(gpus), gpu_gib=gib, samples=samples, tokens=tokens, gpu="H100")
    assert found.fits and hours == f"{found.hours:.1f}"
    assert price == f"{found.hours * int(gpus) * a_gpu_hour:.0f}"


def test_both_kinds_of_training_are_priced():
    assert {Config.load(file).kind for file, *_ in PRICED} == {"sft", "grpo"} and len(PRICED) >= 3
