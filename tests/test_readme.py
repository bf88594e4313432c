"""What the README's first page shows is what was measured: figure, terminal session, plan and price have one source."""

import re
import runpy

import pytest

from cookbook.config import Config, plan
from cookbook.runs import ROOT

README, LOG = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "LOG.md"))
RESULT = runpy.run_path(str(ROOT / "notebooks/figures/result.py"))
FIRST = README[: README.index("## Your own data")]


def test_the_figure_and_its_words_are_those_of_the_session_in_the_log():
    told = RESULT["read"](LOG)
    drawn = (ROOT / "notebooks/figures/result.svg").read_text(encoding="utf-8")
    assert drawn == RESULT["draw"](*told), "run: python notebooks/figures/result.py"
    assert f"![{RESULT['alternative'](*told)}](notebooks/figures/result.svg)" in README
    for word in ("<title", "<desc", "prefers-color-scheme: dark"):
        assert word in drawn


SEEN = """\
$ make tutorial
Took 5 s
base   20.0 %  [10.0–30.0]  of 7 questions on unseen clips; guessing: 50.0 %
SFT    40.0 %  [30.0–50.0]  +20.0 points, p < 0.001
RL    100.0 %  [90.0–100.0]  +60.0 points, p < 0.001
"""


def test_of_a_recorded_session_what_overwrote_itself_is_gone():
    erase = "\r\x1b[K"
    told = SEEN.splitlines()[1:]
    recorded = f"Script started on a day\n{erase}[1/7] setup{erase}[1/7] setup  cell 3/9{erase}{told[0]}\r\n"
    recorded += "\r\n".join(told[1:]) + "\r\n\nScript done on a day\n"
    assert RESULT["visible"](recorded) == SEEN


def test_the_figure_follows_the_figures():
    told = RESULT["read"](f"an entry\n```\n{SEEN}```\nand an older one\n```\n$ make tutorial\nbase 1.0 %\n```\n")
    assert told == ([("base", 20, 10, 30), ("SFT", 40, 30, 50), ("RL", 100, 90, 100)], 7, 50)
    drawn = RESULT["draw"](*told)
    assert [float(x) for x in re.findall(r'<circle class="\w+" cx="([\d.]+)"', drawn)] == [170, 270, 570]
    assert re.findall(r'class="SFT" stroke-width="3" d="M([\d.]+) \d+H([\d.]+)"', drawn) == [("220.0", "320.0")]


def test_the_session_was_seen():
    session = RESULT["SESSION"].search(FIRST)[0]
    assert session == RESULT["SESSION"].search(LOG)[0] and all(len(line) <= 80 for line in session.splitlines())
    (on_the_way,) = re.findall(r"`(\[\d/7\] .*? left)`", FIRST)
    assert on_the_way in LOG


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
        config = config.edit({"train.max_num_steps": int(re.search(r"(\d+) steps", FIRST)[1])})
    found = plan(config, gpus=int(gpus), gpu_gib=gib, samples=samples, tokens=tokens, gpu="H100")
    assert found.fits and hours == f"{found.hours:.1f}"
    assert price == f"{found.hours * int(gpus) * a_gpu_hour:.0f}"


def test_three_layouts_are_priced():
    assert {Config.load(file).kind for file, *_ in PRICED} == {"sft", "grpo"} and len(PRICED) >= 3
