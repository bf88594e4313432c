"""The checks: each judge with a machine played to it, and the probes that read files."""

import sys
from pathlib import Path

import pytest
from cards import H100, T4, cards

from cookbook.display.tables import MISSING, OK, WARNING, Check
from cookbook.doctor import checks


def judged(name: str, found, gpus=(), hidden: int = 0, home: Path = Path("/nowhere"), **environment: str) -> Check:
    """What the row of this name says where its probe returns `found`."""
    rows = {name: judge for name, _, judge in checks.all_checks(gpus, hidden, environment, home)}
    return Check(name, *rows[name](found))


def probed(name: str, home: Path, **environment: str) -> Check:
    """What the row of this name says of the machine with this home and environment."""
    rows = {name: (probe, judge) for name, probe, judge in checks.all_checks([], 0, environment, home)}
    probe, judge = rows[name]
    return Check(name, *judge(probe()))


def test_an_answer_of_nvidia_smi_is_read_and_odd_lines_do_not_break_it():
    (card,) = cards(1)
    assert (card.index, card.capability, card.driver) == ("0", 9.0, "580.65.06")
    assert card.total_gib == pytest.approx(79.65, abs=0.01)
    assert checks.parse("") == [] and checks.parse("NVIDIA-SMI has failed because\n") == []
    (unknown,) = checks.parse("0, GPU-a, NVIDIA Thing, [N/A], [N/A], [N/A], 580.1")
    assert (unknown.total_gib, unknown.capability) == (0, 0)


@pytest.mark.parametrize(
    ("stated", "seen"),
    [(None, "0123"), ("2,0", "20"), ("", ""), ("0,9,1", "0"), ("GPU-1b3c", "1"), ("1, 3", "13"), ("-1", "")],
)
def test_visible_gpus_are_those_of_cuda(stated, seen):
    environment = {} if stated is None else {"CUDA_VISIBLE_DEVICES": stated}
    assert "".join(g.index for g in checks.visible(cards(4), environment)) == seen


@pytest.mark.parametrize("number", range(10))
def test_the_launcher_takes_only_1_2_4_or_8(number):
    check = judged("GPUs", cards(number))
    assert (check.status == OK) == (number in (1, 2, 4, 8))
    if number in (3, 5, 9):
        kept = check.fix.removeprefix("export CUDA_VISIBLE_DEVICES=").split(",")
        assert kept == [str(i) for i in range({3: 2, 5: 4, 9: 8}[number])]


def test_hidden_gpus_are_told():
    assert "3 more hidden" in judged("GPUs", cards(1), hidden=3).found
    assert judged("GPUs", [], hidden=4).fix == "unset CUDA_VISIBLE_DEVICES"


def test_busy_and_old_gpus_are_named():
    assert judged("GPU memory", cards(2), cards(2)).status == OK
    busy = judged("GPU memory", [*cards(1), *checks.parse(H100.format(i=7).replace("81000", "1000"))], cards(1))
    assert busy.status == WARNING and "GPU 7: 1 of 80 GiB free" in busy.found
    assert judged("bfloat16", cards(1), cards(1)).status == OK
    old = judged("bfloat16", [*cards(1), *cards(1, T4)], cards(2))
    assert old.status == MISSING and "Tesla T4" in old.found and "7.5" in old.found


@pytest.mark.parametrize(
    ("driver", "cuda", "status"),
    [("580.65.06", "13.0", OK), ("570.86.15", "13.0", MISSING), ("570.86.15", "12.8", OK), ("470.1", "12.8", MISSING),
     ("580.65.06", "", MISSING), ("580.65.06", None, MISSING)],
)  # fmt: skip
def test_the_driver_must_carry_the_cuda_of_pytorch(driver, cuda, status):
    check = judged("CUDA", cuda, cards(1, H100.replace("580.65.06", driver)))
    assert check.status == status and (status == OK or check.fix)


def test_pytorch_without_cuda_is_fine_where_there_is_no_gpu():
    assert judged("CUDA", "").status == WARNING
    assert judged("CUDA", "13.0").status == OK


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
    check = judged("NCCL", (cuda, {name: (version, name == owner) for name, version in wheels.items()}))
    assert check.status == status
    if status == WARNING:
        major = cuda.split(".")[0]
        version = {"12": "==2.32.3", "13": "==2.28.9"}[major] if f"nvidia-nccl-cu{major}" in wheels else ""
        assert check.fix.endswith(f"--force-reinstall --no-deps nvidia-nccl-cu{major}{version}")


def test_another_nccl_for_the_engine_is_told():
    found = ("13.0", {"nvidia-nccl-cu12": ("2.32.3", True)})
    check = judged("NCCL", found, COSMOS_NCCL_SO_PATH="/x/libnccl.so")
    assert "COSMOS_NCCL_SO_PATH names another" in check.found and "/x" not in check.found
    assert "COSMOS_NCCL_SO_PATH" not in judged("NCCL", found).found


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
    assert checks.nccl_wheels() == {"nvidia-nccl-cu12": ("2.0", False), "nvidia-nccl-cu13": ("2.0", False)}
    file.parent.mkdir(parents=True)
    for size, owner in ((5, "nvidia-nccl-cu12"), (9, "nvidia-nccl-cu13"), (7, None)):
        file.write_bytes(b"x" * size)
        owners = [name for name, (_, on_disk) in checks.nccl_wheels().items() if on_disk]
        assert owners == ([owner] if owner else [])


def test_versions_are_held_against_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "version", {"av": "17.1.0", "torch": "2.9.0"}.get)
    lock = tmp_path / "requirements.lock"
    lock.write_text("av==17.1.0 ; python_full_version < '3.11'\nav==18.1.0 ; x\n    # via\ntorch==2.11.0\n")
    assert checks.installed("av", lock) == ("17.1.0", {"17.1.0", "18.1.0"})
    assert checks.installed("torch", lock) == ("2.9.0", {"2.11.0"})
    assert checks.installed("vllm", lock) == (None, set())
    assert checks.installed("av", tmp_path / "none.lock") == ("17.1.0", set())
    older = judged("torch", ("2.9.0", {"2.11.0"}))
    assert older.status == WARNING and "2.11.0" in older.found


@pytest.mark.parametrize("name", checks.PINNED)
def test_the_lock_of_the_project_pins_what_the_doctor_compares(name):
    assert checks.installed(name)[1]


def test_the_cuda_of_pytorch_is_read_without_importing_it(tmp_path):
    import torch

    assert checks.torch_cuda() == (torch.version.cuda or "")
    assert checks.torch_cuda(tmp_path / "version.py") is None
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\n")
    assert checks.torch_cuda(tmp_path / "version.py") == ""


def test_a_token_is_noticed_and_never_shown(tmp_path):
    secret = "hf_verysecret"
    assert probed("Hugging Face login", tmp_path).status == WARNING
    (tmp_path / "token").write_text(secret)
    places = ({"HF_TOKEN": secret}, {"HF_HOME": str(tmp_path)}, {"HF_TOKEN_PATH": str(tmp_path / "token")})
    found = [probed("Hugging Face login", tmp_path, **place) for place in places]
    found.append(judged("Weights & Biases", "0.20", home=tmp_path, WANDB_API_KEY=secret))
    assert all(check.status == OK for check in found)
    assert secret not in str(found) and str(tmp_path) not in str(found)


def test_weights_and_biases_offline_without_a_key_is_a_warning(tmp_path):
    def wandb(installed: str | None = "0.20", **environment: str) -> Check:
        return judged("Weights & Biases", installed, home=tmp_path, **environment)

    assert wandb(WANDB_MODE="offline").status == WARNING
    assert "offline" in wandb(WANDB_MODE="offline", WANDB_API_KEY="x").found
    assert wandb().found.startswith("no key") and wandb(None).found.startswith("off")
    (tmp_path / ".netrc").write_text("")
    assert "not read" in wandb().found
    assert wandb(WANDB_MODE="disabled").found.startswith("off")


@pytest.mark.parametrize(
    ("name", "found", "status"),
    [
        *(("Python", running, status) for running, status in
          {(3, 9): MISSING, (3, 10): OK, (3, 12): OK, (3, 13): MISSING}.items()),
        ("av", ("17.1.0", {"17.1.0", "18.1.0"}), OK),
        ("torch", ("2.11.0+cu130", {"2.11.0"}), OK),
        ("torch", ("2.9.0", set()), OK),
        ("torch", ("2.9.0", {"2.11.0"}), WARNING),
        ("torch", (None, {"2.11.0"}), MISSING),
        ("vllm", None, OK),
        ("vllm", "0.20.0", WARNING),
        ("redis-server", True, OK),
        ("redis-server", False, MISSING),
        ("/opt", False, MISSING),
        ("host name", True, OK),
        ("host name", False, MISSING),
        ("port 12800", True, OK),
        ("port 12800", False, WARNING),
        ("HF_HOME", (500, False), OK),
        ("HF_HOME", (100, False), WARNING),
        ("HF_HOME", (10, False), MISSING),
        ("HF_HOME", (10, True), WARNING),
        ("COSMOS_CACHE", (10, False), WARNING),
        ("COSMOS_CACHE", (None, False), MISSING),
        ("disk for runs", 500, OK),
        ("disk for runs", 100, WARNING),
        ("disk for runs", 0.5, MISSING),
        ("disk for runs", None, MISSING),
        ("tiny base", False, MISSING),
        ("shared memory", 0.067, WARNING),
        ("shared memory", None, WARNING),
        ("shared memory", 16, OK),
        ("memory", 1, MISSING),
        ("memory", 64, WARNING),
        ("memory", 512, OK),
    ],
)  # fmt: skip
def test_each_check_says_how_it_stands_and_what_mends_it(name, found, status):
    check = judged(name, found)
    assert check.status == status
    assert bool(check.fix) == (status != OK and name != "vllm"), check
    assert check.found and "\n" not in check.found + check.fix and "{" not in check.found + check.fix


def test_what_is_found_stands_in_the_words():
    assert "bridge" in judged("vllm", None).found and judged("vllm", "0.20.0").found.startswith("0.20.0; not in")
    assert judged("shared memory", 0.067).found.startswith("0.067 GB of /dev/shm")
    assert "99.5 + 16.6 GB" in judged("disk for runs", 500).found  # the measured sizes
    assert judged("memory", 64).found.startswith("64 GB;") and "99.5 GB" in judged("memory", 64).found
    assert "default place" in judged("HF_HOME", (500, True)).found
    assert "default place" not in judged("HF_HOME", (500, True), HF_HOME="/x").found
    assert "engine's redis" in judged("port 12800", False).found and "12800" in judged("port 12800", False).fix


def test_the_room_is_that_of_the_nearest_folder_that_is_there(tmp_path):
    here = checks.room(tmp_path)
    assert here > 0 and checks.room(tmp_path / "none" / "yet") == pytest.approx(here, rel=0.01)


def test_a_cache_that_has_the_weights_needs_no_room_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "room", lambda path: 10)
    assert probed("HF_HOME", tmp_path, HF_HOME=str(tmp_path)).status == MISSING
    (tmp_path / checks.WEIGHTS).mkdir(parents=True)
    assert probed("HF_HOME", tmp_path, HF_HOME=str(tmp_path)).status == WARNING


@pytest.mark.parametrize(("answer", "status"), [("127.0.0.1", OK), (OSError("Name or service not known"), MISSING)])
def test_a_name_without_an_address_is_a_no(monkeypatch, tmp_path, answer, status):
    def ask(name):
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("socket.gethostbyname", ask)
    assert probed("host name", tmp_path).status == status


def test_the_checkout_has_its_tiny_base(monkeypatch, tmp_path):
    assert probed("tiny base", tmp_path).status == OK
    monkeypatch.setattr(checks.runs, "ROOT", tmp_path)
    assert probed("tiny base", tmp_path).status == MISSING
    pointer = tmp_path / "models/tiny-base/model.safetensors"
    pointer.parent.mkdir(parents=True)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert probed("tiny base", tmp_path).status == MISSING


@pytest.mark.parametrize(
    ("found", "judged"),
    [(0.9, "a 0.9"), (1, "b 1"), (2, "c 2"), (None, "none"), (0, "a 0"), ("", "a "), (False, "a False"), ("x", "b x")],
)
def test_what_is_found_is_judged_by_the_first_limit_that_it_is_below(found, judged):
    levels = ((0, WARNING, "none"), (1, MISSING, "a {}", "mend"), (2, WARNING, "b {}"), (3, OK, "c {}"))
    assert checks.level(levels, found)[1] == judged


@pytest.mark.fault("security")
def test_a_redis_that_lets_a_script_run_code_is_a_warning_with_its_version():
    old, new = judged("redis-server", (6, 2, 14)), judged("redis-server", (7, 2, 11))
    assert old.status == WARNING and "6.2.14" in old.found and "CVE-2025-49844" in old.found and old.fix
    assert new.status == OK
