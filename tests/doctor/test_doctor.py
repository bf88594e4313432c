"""The doctor: every probe with a machine played to it, and the whole in a fresh process that imports nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cookbook import doctor
from cookbook.display.tables import MISSING, OK, WARNING, Check, as_html, as_text
from cookbook.doctor import abilities, gpus, machine, packages
from cookbook.runs import ROOT

H100 = "{i}, GPU-{i}b3c, NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.65.06"
T4 = "{i}, GPU-{i}b3c, Tesla T4, 15360, 15000, 7.5, 580.65.06"


def cards(count: int, line: str = H100) -> list[gpus.GPU]:
    return gpus.parse("\n".join(line.format(i=i) for i in range(count)) + "\n")


def test_an_answer_of_nvidia_smi_is_read_and_odd_lines_do_not_break_it():
    (card,) = cards(1)
    assert (card.index, card.capability, card.driver) == ("0", 9.0, "580.65.06")
    assert card.total_gib == pytest.approx(79.65, abs=0.01)
    assert gpus.parse("") == [] and gpus.parse("NVIDIA-SMI has failed because\n") == []
    (unknown,) = gpus.parse("0, GPU-a, NVIDIA Thing, [N/A], [N/A], [N/A], 580.1")
    assert (unknown.total_gib, unknown.capability) == (0, 0)


@pytest.mark.parametrize(
    ("stated", "seen"),
    [(None, "0123"), ("2,0", "20"), ("", ""), ("0,9,1", "0"), ("GPU-1b3c", "1"), ("1, 3", "13"), ("-1", "")],
)
def test_visible_gpus_are_those_of_cuda(stated, seen):
    environment = {} if stated is None else {"CUDA_VISIBLE_DEVICES": stated}
    assert "".join(g.index for g in gpus.visible(cards(4), environment)) == seen


@pytest.mark.parametrize("number", range(10))
def test_the_launcher_takes_only_1_2_4_or_8(number):
    check = gpus.count(cards(number), number)
    assert (check.status == OK) == (number in (1, 2, 4, 8))
    if number in (3, 5, 9):
        kept = check.fix.removeprefix("export CUDA_VISIBLE_DEVICES=").split(",")
        assert kept == [str(i) for i in range({3: 2, 5: 4, 9: 8}[number])]


def test_hidden_gpus_are_told():
    assert "3 more hidden" in gpus.count(cards(1), 4).found
    assert gpus.count([], 4).fix == "unset CUDA_VISIBLE_DEVICES"


def test_busy_and_old_gpus_are_named():
    assert gpus.memory(cards(2)).status == OK
    busy = gpus.memory([*cards(1), *gpus.parse(H100.format(i=7).replace("81000", "1000"))])
    assert busy.status == WARNING and "GPU 7: 1 of 80 GiB free" in busy.found
    assert gpus.bf16(cards(1)).status == OK
    old = gpus.bf16([*cards(1), *cards(1, T4)])
    assert old.status == MISSING and "Tesla T4" in old.found and "7.5" in old.found


@pytest.mark.parametrize(
    ("driver", "cuda", "status"),
    [("580.65.06", "13.0", OK), ("570.86.15", "13.0", MISSING), ("570.86.15", "12.8", OK), ("470.1", "12.8", MISSING),
     ("580.65.06", "", MISSING), ("580.65.06", None, MISSING)],
)  # fmt: skip
def test_the_driver_must_carry_the_cuda_of_pytorch(driver, cuda, status):
    check = gpus.driver(cards(1, H100.replace("580.65.06", driver)), cuda)
    assert check.status == status and (status == OK or check.fix)


def test_pytorch_without_cuda_is_fine_where_there_is_no_gpu():
    assert gpus.driver([], "").status == WARNING
    assert gpus.driver([], "13.0").status == OK


CU12, CU13 = {"nvidia-nccl-cu12": "2.32.3"}, {"nvidia-nccl-cu13": "2.28.9"}


@pytest.mark.parametrize(
    ("cuda", "wheels", "owner", "status"),
    [
        ("13.0", CU13, "nvidia-nccl-cu13", OK),
        ("13.0", CU12 | CU13, "nvidia-nccl-cu13", OK),
        ("13.0", CU12 | CU13, "nvidia-nccl-cu12", WARNING),
        ("13.0", CU12 | CU13, None, WARNING),
        ("13.0", CU12, "nvidia-nccl-cu12", WARNING),
        ("12.8", CU12 | CU13, "nvidia-nccl-cu12", OK),
        ("12.8", CU12 | CU13, "nvidia-nccl-cu13", WARNING),
        ("", {}, None, OK),
    ],
)
def test_nccl_must_be_that_of_pytorch(cuda, wheels, owner, status):
    check = gpus.nccl(cuda, wheels, owner)
    assert check.status == status
    if status == WARNING:
        major = cuda.split(".")[0]
        version = {"12": "==2.32.3", "13": "==2.28.9"}[major] if f"nvidia-nccl-cu{major}" in wheels else ""
        assert check.fix.endswith(f"--force-reinstall --no-deps nvidia-nccl-cu{major}{version}")


def test_which_nccl_is_on_disk_is_told_by_its_size(tmp_path, monkeypatch):
    def install(name: str, recorded: int) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (folder / "RECORD").write_text(f"nvidia/nccl/lib/libnccl.so.2,sha256=x,{recorded}\n")

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install("nvidia-nccl-cu12", 5)
    install("nvidia-nccl-cu13", 9)
    file = tmp_path / "nvidia/nccl/lib/libnccl.so.2"
    assert packages.nccl_owner() is None
    file.parent.mkdir(parents=True)
    for size, owner in ((5, "nvidia-nccl-cu12"), (9, "nvidia-nccl-cu13"), (7, None)):
        file.write_bytes(b"x" * size)
        assert packages.nccl_owner() == owner


def test_versions_are_held_against_the_lock():
    lock = packages.locked("av==17.1.0 ; python_full_version < '3.11'\nav==18.1.0 ; x\n    # via\ntorch==2.11.0\n")
    assert lock == {"av": {"17.1.0", "18.1.0"}, "torch": {"2.11.0"}}
    assert packages.pinned("av", "17.1.0", lock).status == OK
    assert packages.pinned("torch", "2.11.0+cu130", lock).status == OK
    older = packages.pinned("torch", "2.9.0", lock)
    assert older.status == WARNING and "2.11.0" in older.found
    assert packages.pinned("torch", None, lock).status == MISSING
    assert packages.optional("vllm", None).status == OK and "bridge" in packages.optional("vllm", None).found
    assert packages.optional("vllm", "0.20.0").status == WARNING
    assert [packages.python(v).status for v in ((3, 9), (3, 10), (3, 12), (3, 13))] == [MISSING, OK, OK, MISSING]


def test_the_lock_of_the_project_pins_what_the_doctor_compares():
    assert set(packages.PINNED) <= packages.locked((ROOT / "requirements.lock").read_text()).keys()


def test_the_cuda_of_pytorch_is_read_without_importing_it(tmp_path):
    import torch

    assert packages.torch_cuda(packages.torch_version_file()) == (torch.version.cuda or "")
    assert packages.torch_cuda(tmp_path / "version.py") is None
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\n")
    assert packages.torch_cuda(tmp_path / "version.py") == ""


def test_a_token_is_noticed_and_never_shown(tmp_path):
    secret = "hf_verysecret"
    assert machine.hugging_face({}, tmp_path).status == WARNING
    found = [machine.hugging_face({"HF_TOKEN": secret}, tmp_path)]
    (tmp_path / "token").write_text(secret)
    found.append(machine.hugging_face({"HF_HOME": str(tmp_path)}, tmp_path))
    found.append(machine.hugging_face({"HF_TOKEN_PATH": str(tmp_path / "token")}, tmp_path))
    found.append(machine.wandb({"WANDB_API_KEY": secret}, tmp_path, True))
    assert all(check.status == OK for check in found)
    assert secret not in str(found) and str(tmp_path) not in str(found)


def test_weights_and_biases_offline_without_a_key_is_a_warning(tmp_path):
    assert machine.wandb({"WANDB_MODE": "offline"}, tmp_path, True).status == WARNING
    assert "offline" in machine.wandb({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, tmp_path, True).found
    assert machine.wandb({}, tmp_path, True).found.startswith("no key")
    (tmp_path / ".netrc").write_text("")
    assert "not read" in machine.wandb({}, tmp_path, True).found
    assert machine.wandb({"WANDB_MODE": "disabled"}, tmp_path, True).found.startswith("off")


def unresolved():
    raise OSError


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (machine.redis(True), OK),
        (machine.redis(False), MISSING),
        (machine.opt(False), MISSING),
        (machine.host(lambda: "127.0.0.1"), OK),
        (machine.host(unresolved), MISSING),
        (machine.port("engine's redis", 12800, True), OK),
        (machine.port("engine's redis", 12800, False), WARNING),
        (machine.tool("uv", None, WARNING, "install it"), WARNING),
        (machine.cache("HF_HOME", True, 500, True, machine.EXPORT_GB), OK),
        (machine.cache("HF_HOME", True, 100, True, machine.EXPORT_GB), WARNING),
        (machine.cache("HF_HOME", True, 10, True, machine.EXPORT_GB), MISSING),
        (machine.cache("HF_HOME", True, 10, True, 0), WARNING),
        (machine.cache("COSMOS_CACHE", False, 500, False, 0), MISSING),
        (machine.disk(500, True), OK),
        (machine.disk(100, True), WARNING),
        (machine.disk(0.5, True), MISSING),
        (machine.disk(500, False), MISSING),
        (machine.shared_memory(0.067), WARNING),
        (machine.shared_memory(None), WARNING),
        (machine.shared_memory(16), OK),
        (machine.cores(1), WARNING),
        (machine.cores(2), OK),
        (machine.ram(1), MISSING),
        (machine.ram(64), WARNING),
        (machine.ram(512), OK),
    ],
)
def test_each_probe_says_how_it_stands_and_what_mends_it(check, status):
    assert check.status == status
    assert (status == OK or check.name == "CPU cores") != bool(check.fix), check
    assert check.found and "\n" not in check.found


def test_sizes_of_a_kept_step_are_the_measured_ones():
    assert "99.5 + 16.6 GB" in machine.disk(500, True).found
    assert "99.5 GB" in machine.ram(64).found


# ---- what a machine can run ---------------------------------------------------------------------------------------


def can(cards: list, free_gib: float = 1000, *checks: Check) -> dict[str, bool]:
    return {a.name: a.possible for a in abilities.examine([gpus.count(cards, len(cards)), *checks], cards, free_gib)}


TINY, ENGINE, LORA, SFT, RL = "tiny, local", "tiny, cosmos-rl", "LoRA 7B", "SFT 7B", "RL 7B"


@pytest.mark.parametrize(
    ("cards", "possible"),
    [
        ([], {TINY}),
        (cards(1), {TINY, ENGINE, LORA}),
        (cards(2), {TINY, ENGINE, LORA, SFT, RL}),
        (cards(3), {TINY}),
        (cards(8), {TINY, ENGINE, LORA, SFT, RL}),
        (cards(8, T4), {TINY, ENGINE}),
    ],
    ids=["none", "1 x H100", "2 x H100", "3 x H100", "8 x H100", "8 x T4"],
)
def test_what_the_gpus_can_run(cards, possible):
    assert {name for name, yes in can(cards).items() if yes} == possible


def test_the_widest_file_that_fits_is_named_with_its_loader():
    for number, file in ((2, "sft_2gpu"), (4, "sft"), (8, "sft_8gpu")):
        found = {a.name: a for a in abilities.examine([], cards(number), 1000)}[SFT]
        assert found.possible and f"configs/{file}.toml:" in found.reason
        assert found.command.endswith(f"--config configs/{file}.toml --run mine/{file} data_tools/cosmos_sft.py")


def test_a_full_disk_or_a_missing_part_forbids_what_needs_it():
    assert can(cards(8), free_gib=100) == dict.fromkeys((TINY, ENGINE, LORA), True) | dict.fromkeys((SFT, RL), False)
    assert not any(list(can(cards(8), 1000, machine.redis(False)).values())[1:])
    assert not any(can(cards(8), 1000, Check("torch", MISSING, "not installed")).values())
    full = machine.cache("HF_HOME", True, 1, True, 20)
    assert {n for n, yes in can(cards(8), 1000, full).items() if yes} == {TINY, ENGINE}


def test_a_broken_configuration_does_not_stop_the_doctor(monkeypatch):
    monkeypatch.setitem(abilities.RUNS, SFT, (abilities.ENGINE, ("nowhere.toml",)))
    found = can(cards(8))
    assert not found[SFT] and found[RL]


# ---- the whole ----------------------------------------------------------------------------------------------------


def fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def ask(tmp_path: Path, cards: int | None, *arguments: str, **environment: str):
    """Run the doctor in a fresh process on a machine that has these GPUs and redis."""
    if cards is not None:
        lines = "\n".join(H100.format(i=i) for i in range(cards))
        fake(tmp_path / "bin", "nvidia-smi", f'echo "{lines}"' if cards else "exit 9")  # echo: the shell's own
        fake(tmp_path / "bin", "redis-server", "")
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
    assert [run["name"] for run in found["can_run"]] == [TINY, ENGINE, LORA, SFT, RL]


@pytest.mark.parametrize("cards", [None, 0], ids=["no nvidia-smi", "one that fails"])
def test_a_machine_without_gpus_can_run_the_tiny_job(tmp_path, cards):
    done = ask(tmp_path, cards)
    assert done.returncode == 0 and "missing  GPUs" in done.stdout and not done.stderr


def test_the_exit_code_says_that_not_even_the_tiny_job_can_run(monkeypatch, capsys):
    from cookbook.doctor.__main__ import main

    monkeypatch.setattr(packages, "version", lambda name: None)
    assert main([]) == 1
    assert "no  tiny, local" in capsys.readouterr().out


def test_whatever_breaks_the_doctor_answers(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("/secret/place")

    for module, name in (
        (machine, "ram"),
        (machine, "writable"),
        (gpus, "ask"),
        (packages, "pinned"),
        (doctor, "is_free"),
    ):
        monkeypatch.setattr(module, name, broken)
    found = doctor.examine()
    assert found["memory"].found == "could not be examined" and found["torch"].status == WARNING
    assert "/secret" not in repr(found)


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
    report = doctor.Report(tuple(rows), (doctor.Ability(TINY, False, "why", "make tutorial"),))
    assert not report.ok and report["longer"].found == "fine"
    assert "1 missing, 0 warnings" in repr(report) and "make tutorial" not in repr(report)
