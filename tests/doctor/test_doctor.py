"""The doctor as a whole: in a fresh process that imports nothing heavy; where things break; what a machine can run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cards import H100, T4, cards

from cookbook import doctor
from cookbook.display.tables import MISSING, OK, WARNING, Check, as_html, as_text
from cookbook.doctor import checks
from cookbook.doctor.__main__ import main
from cookbook.doctor.checks import count
from cookbook.runs import ROOT

REASON2 = [f"{kind} Reason2-{size}" for size in ("2B", "8B") for kind in ("LoRA", "SFT", "RL")]
RUNS = ["tiny, local", "tiny, cosmos-rl", "LoRA 7B", "SFT 7B", "RL 7B", *REASON2]
TINY, ENGINE, LORA, SFT, RL, *_ = RUNS
ONE = {TINY, ENGINE, LORA, *REASON2[:4]}  # all of 2B, and 8B with LoRA


def fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def ask(tmp_path: Path, cards: int | None, *arguments: str, **environment: str):
    """Run the doctor in a fresh process on a machine that has these GPUs and redis."""
    if cards is not None:
        lines = "\n".join(H100.format(i=i) for i in range(cards))
        fake(tmp_path / "bin", "nvidia-smi", f'echo "{lines}"' if cards else "exit 9")  # echo: the shell's own
        fake(tmp_path / "bin", "redis-server", "echo Redis server v=8.2.2")
        fake(tmp_path / "bin", "redis-cli", "")
    home = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}  # nothing of the machine that runs the test
    command = [sys.executable, "-m", "cookbook.doctor", *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "WANDB_", "CUDA_", "COSMOS_"))}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**clean, **home, **environment})


def test_the_command_reports_as_json(tmp_path):
    done = ask(tmp_path, 2, "--json", CUDA_VISIBLE_DEVICES="1", HF_TOKEN="hf_verysecret", COSMOS_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert found["ok"] and status["redis-server"] == OK and status["GPUs"] == OK
    assert "1 more hidden" in done.stdout
    for private in ("hf_verysecret", str(tmp_path), str(ROOT), os.uname().nodename + '"'):
        assert private not in done.stdout
    assert [run["name"] for run in found["can_run"]] == RUNS


@pytest.mark.parametrize("cards", [None, 0], ids=["no nvidia-smi", "one that fails"])
def test_a_machine_without_gpus_can_run_the_tiny_job(tmp_path, cards):
    done = ask(tmp_path, cards)
    assert done.returncode == 0 and "missing  GPUs" in done.stdout and not done.stderr


def test_the_exit_code_says_that_not_even_the_tiny_job_can_run(monkeypatch, capsys):
    monkeypatch.setattr(checks, "version", lambda name: None)
    assert main([]) == 1
    assert "no  tiny, local" in capsys.readouterr().out


def test_whatever_breaks_the_doctor_answers(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("/secret/place")

    for name in ("memory_gb", "room", "query_gpus", "pinned", "is_free"):
        monkeypatch.setattr(checks, name, broken)
    report = doctor.examine()
    found = {check.name: check for check in report.checks}
    assert found["memory"].found == "could not be examined" and found["torch"].status == WARNING
    assert "/secret" not in repr(report)


def test_it_is_quick_and_imports_nothing_heavy():
    """The best of three, because the machine is shared."""
    program = (
        "import time; started = time.perf_counter()\n"
        "from cookbook import doctor; doctor.examine()\n"
        "import sys; heavy = {'torch', 'cosmos_rl', 'transformers', 'numpy', 'wandb'} & set(sys.modules)\n"
        "print(time.perf_counter() - started, *heavy)\n"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds, *heavy = done.stdout.split()
        assert heavy == []
        times.append(float(seconds))
    assert min(times) < 5


def test_a_report_shows_itself_as_text_and_as_a_table():
    rows = [Check("a<b", MISSING, "x & y", "do this"), Check("longer", OK, "fine")]
    assert as_text(c.cells for c in rows).splitlines() == [
        "missing  a<b     x & y",
        "                 -> do this",
        "ok       longer  fine",
    ]
    page = as_html(("", "n", "f", "fix"), (c.cells for c in rows))
    assert "a&lt;b" in page and "<code>do this</code>" in page and "<b>missing</b>" in page
    report = doctor.Examination(tuple(rows), (doctor.Ability(RUNS[0], False, "why", "make tutorial"),))
    assert not report.ok and "longer  fine" in repr(report) and report["a<b"] is rows[0]
    assert "1 missing, 0 warnings" in repr(report) and "make tutorial" not in repr(report)


# ---- what a machine can run: played GPUs and checks against the shipped configurations ------------------------------


def can(cards: list, free_gib: float = 1000, *checks: Check) -> dict[str, bool]:
    gpus = Check("GPUs", *count(0, cards))
    return {a.name: a.possible for a in doctor.can_run([gpus, *checks], cards, free_gib)}


@pytest.mark.parametrize(
    ("cards", "possible"),
    [
        ([], {TINY}),
        (cards(1), ONE | {RL, REASON2[-1]}),
        (cards(2), ONE | {SFT, RL, REASON2[-1]}),
        (cards(3), {TINY}),
        (cards(8), set(RUNS)),
        (cards(8, T4), {TINY, ENGINE, REASON2[0]}),
    ],
    ids=["none", "1 x H100", "2 x H100", "3 x H100", "8 x H100", "8 x T4"],
)
def test_what_the_gpus_can_run(cards, possible):
    assert {name for name, yes in can(cards).items() if yes} == possible


def test_the_widest_file_that_fits_is_named_with_its_loader():
    for number, file in ((2, "sft_2gpu"), (4, "sft"), (8, "sft_8gpu")):
        found = {a.name: a for a in doctor.can_run([], cards(number), 1000)}[SFT]
        assert found.possible and f"configs/{file}.toml:" in found.reason
        assert found.command.endswith(f"--config configs/{file}.toml --run mine/{file} data_tools/cosmos_sft.py")
    found = {a.name: a for a in doctor.can_run([], cards(1), 1000)}
    assert found[ENGINE].command.endswith("--run mine/tiny_sft data_tools/road_vqa.py")
    assert found[TINY].command == "make tutorial"


def test_a_full_disk_or_a_missing_part_forbids_what_needs_it():
    assert can(cards(8), free_gib=100) == {run: run in ONE for run in RUNS}
    assert not any(list(can(cards(8), 1000, Check("redis-server", MISSING, "not found")).values())[1:])
    assert not any(can(cards(8), 1000, Check("torch", MISSING, "not installed")).values())
    full = Check("HF_HOME", MISSING, "1 GB free; 17 GB are needed at least")
    assert {n for n, yes in can(cards(8), 1000, full).items() if yes} == {TINY, ENGINE}


def test_a_broken_configuration_does_not_stop_the_doctor(monkeypatch):
    monkeypatch.setitem(doctor.SIZES, SFT, (doctor.ENGINE, ("nowhere.toml",)))
    found = can(cards(8))
    assert not found[SFT] and found[RL]
