"""The launcher: a good run is told from a bad one, each failure has its name, and nothing of the engine is left.

The engine is tests/assets/engine/cosmos-rl, which replays recorded logs with the real one's processes and manners.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import torch
from safetensors.torch import save_file

from cookbook.checkpoint.verify import what_is_missing
from cookbook.config import Config
from cookbook.engine import nodes as nodes_module
from cookbook.engine.environment import engine_environment, wandb_environment
from cookbook.engine.failures import KINDS, EngineError, kind_of
from cookbook.engine.launch import as_launched, command, launch, make_room
from cookbook.engine.log_lines import parse_step, root_cause, traces
from cookbook.engine.redis import find_redis, free_port, is_free
from cookbook.engine.watch import Patience, Watch
from cookbook.runs import ROOT, Run, read_metrics

FAKE = ROOT / "tests/assets" / "engine"
LOADER = "data_tools/llava_sft.py"
HASTE = Patience(start=2.0, stall=1.5, dead=0.4, fatal=0.6, stop=0.5, tick=0.1)
CONFIGS = {"sft": Config.load("configs/tiny_sft.toml"), "grpo": Config.load("configs/tiny_rl.toml")}


class Scene:
    """One launch of the fake engine, with ports of its own and a mark on all its processes."""

    def __init__(self, folder: Path) -> None:
        self.run, self.mark = Run(folder / "run", seed=0), uuid4().hex
        self.port = free_port(20000 + os.getpid() % 9000)
        self.redis = free_port(self.port + 1)
        programs = folder / "bin"
        programs.mkdir()
        for name in ("redis-server", "redis-cli"):
            (programs / name).symlink_to("/bin/true")
        self.path = os.pathsep.join([str(FAKE), str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])

    def environment(self, **scene) -> dict[str, str]:
        return {"PATH": self.path, "FAKE_SCENE": json.dumps(scene), "FAKE_MARK": self.mark}

    def config(self, training: str = "sft") -> Config:
        return CONFIGS[training].edit({"redis": str(self.redis)})

    def launch(self, training: str = "sft", patience: Patience = HASTE, **scene) -> Path | None:
        return launch(
            self.config(training),
            LOADER,
            self.run,
            port=self.port,
            patience=patience,
            env=self.environment(**scene),
        )

    def fails(self, kind: str, *words: str, **scene) -> EngineError:
        """Launch, and expect this kind of failure within seconds, with these words."""
        started = time.monotonic()
        with pytest.raises(EngineError) as caught:
            self.launch(**scene)
        assert time.monotonic() - started < 30
        error = caught.value
        assert error.kind == kind, str(error)
        for word in (*words, KINDS[kind][1]):
            assert word in str(error), f"{word!r} is not in:\n{error}"
        assert json.loads((self.run.path / "manifest.json").read_text())["outcome"] == kind
        return error

    def remains(self) -> list[str]:
        """What is left of the engine: processes with the mark, and ports."""
        left = [f"port {p}" for p in (self.port, self.redis) if not is_free(p)]
        for process in psutil.process_iter(["pid", "cmdline"]):
            try:
                if process.pid != os.getpid() and process.environ().get("FAKE_MARK") == self.mark:
                    left.append(" ".join(process.info["cmdline"]))
            except (psutil.Error, OSError):
                pass
        return left


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    assert made.remains() == []


# ---- success ----------------------------------------------------------------------------------------------------


def test_a_good_sft_run_returns_its_last_export(scene):
    assert scene.launch() == scene.run.path / "safetensors" / "step_12"
    assert [row["step"] for row in read_metrics(scene.run.path)] == list(range(1, 13))
    stamped = (scene.run.path / "engine.log").read_text().splitlines()
    assert float(stamped[-1].split()[0]) >= float(stamped[0].split()[0]) >= 0
    facts = json.loads((scene.run.path / "manifest.json").read_text())
    assert facts["outcome"] == "finished" and "cosmos-rl --config" in facts["engine_command"]
    log = (scene.run.path / "log.txt").read_text()
    assert f"cosmos-rl --config {scene.run.path}/config.toml --port {scene.port} {LOADER}" in log
    assert "Validation loss: 2.87" in log and "safetensors/step_12" in log


def test_a_good_grpo_run_returns_its_last_export(scene):
    assert scene.launch("grpo", log="grpo_colocated_ok.log").name == "step_8"
    assert len(read_metrics(scene.run.path)) == 8


def test_without_checkpoints_there_is_no_export_to_return(scene):
    config = scene.config().edit({"train.ckpt.enable_checkpoint": False})
    assert launch(config, LOADER, scene.run, port=scene.port, env=scene.environment(export="none")) is None


def test_a_resumed_run_takes_up_where_it_was(scene, tmp_path):
    checkpoint = scene.run.path / "checkpoints" / "step_6" / "policy"
    checkpoint.mkdir(parents=True)
    (checkpoint / "cosmos_config").write_text("")
    (scene.run.path / "engine.log").write_text("    1.00 of the first half\n")
    env = scene.environment(log="sft_resume_ok.log")
    export = launch(scene.config(), LOADER, scene.run, port=scene.port, env=env, resume=checkpoint)
    assert export.name == "step_12"
    assert Config.load(scene.run.path / "config.toml")["train.resume"] == str(checkpoint)
    assert "first half" in (scene.run.path / "engine.1.log").read_text()


# ---- failures, each by its name ---------------------------------------------------------------------------------


def trace(error: str, frame: str = "site-packages/cosmos_rl/policy/worker/sft_worker.py", rank: int = 0) -> str:
    entry = '  File "/x/data_tools/llava_sft.py", line 27, in <module>'  # the loader file starts every process
    lines = ["Traceback (most recent call last):", entry, f'  File "{frame}", line 9, in main_loop', "    go()", error]
    return "\n".join(f"[rank{rank}]:{line}" for line in lines)


DEAD = "\n[cosmos] 2026-11-23 00:00:00,000 - cosmos - ERROR - Process 77 failed with return code 1"
STEP = "- Step: 3/12"
NAN = "[rank0]:[cosmos] now - cosmos - INFO - Step: {}/12, Loss: nan, Grad norm: nan, Iteration time: 0.16s"


def test_a_crashed_sft_that_exits_with_0_is_a_failure_with_its_first_traceback(scene):
    error = scene.fails("data", "RuntimeError: injected dataset failure", log="sft_worker_died_exit_0.log")
    assert str(error).count("Traceback") == 1 and "ChildFailedError" not in str(error)
    assert "before the first step" in str(error)


def test_a_disk_that_was_really_full_is_named(scene):
    """The log of cosmos-rl on an H100 with checkpoints on a tmpfs of 60 MB: no line of its first error says "space"."""
    error = scene.fails("disk", "basic_ios::clear: iostream error", log="sft_disk_full.log")
    assert "max_keep" in str(error)


def test_a_reward_that_raises_is_a_failure_while_the_policy_hangs(scene):
    error = scene.fails(
        "reward",
        "RuntimeError: injected reward failure",
        training="grpo",
        log="grpo_reward_crashed_hangs.log",
        then="wait",
    )
    assert "in compute_reward" in str(error) and "worker_entry" not in str(error)


@pytest.mark.parametrize(
    "kind, say",
    [
        ("memory", trace("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.") + DEAD),
        ("disk", trace("OSError: [Errno 28] No space left on device: 'step_6'") + DEAD),
        ("nccl", trace("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356") + DEAD),
        ("checkpoint", trace("RuntimeError: Error(s) in loading state_dict for Qwen2_5_VL: size mismatch") + DEAD),
        ("config", trace("pydantic_core._pydantic_core.ValidationError: 1 validation error for Config") + DEAD),
        ("port", trace("OSError: [Errno 98] Address already in use") + DEAD),
        ("gpu", trace("RuntimeError: No GPUs available. Please check your GPU configuration.") + DEAD),
        ("redis", "/bin/sh: 1: redis-server: not found" + DEAD),
        ("attention", trace("NotImplementedError: FlashAttention is not installed.") + DEAD),
        ("hub", trace("OSError: We couldn't connect to 'https://huggingface.co' to load the files") + DEAD),
        ("length", trace("ValueError: Videos features and video tokens do not match: tokens: 2, features 16") + DEAD),
        ("killed", "E1123 00:00:00.0 1 api.py:986] failed (exitcode: -9) local_rank: 0 (pid: 7)" + DEAD),
        ("worker", trace("ZeroDivisionError: division by zero", "site-packages/cosmos_rl/policy/train.py") + DEAD),
        ("nan", "\n".join(NAN.format(n) for n in (4, 5))),
        ("memory", trace("torch.OutOfMemoryError: CUDA out of memory.")),  # and then it hangs
        ("stall", ""),
    ],
    ids=lambda value: value if value in KINDS else "",
)  # fmt: skip
def test_every_kind_of_failure_has_its_name(scene, kind, say):
    scene.fails(kind, "of 12", until=STEP, say=say)


@pytest.fixture
def diverging(scene, monkeypatch):
    """A log of 16 of 30 steps, whose loss is a hundred times higher from step 12 on; metrics are read at once."""
    monkeypatch.setattr("cookbook.engine.watch.METRICS_EVERY", 0.0)
    head = (FAKE / "sft_ok.log").read_text().partition("[rank0]:[cosmos]")[0]
    lines = [NAN.format(n).replace("/12", "/30").replace("nan", "0.5" if n < 12 else "50.0") for n in range(1, 17)]
    log = scene.run.path / "diverging.log"
    log.write_text(head + "\n".join(lines) + "\n")
    return {"log": str(log), "until": "Step: 16/30"}


def test_a_severe_alarm_lets_the_engine_save_and_end(scene, diverging):
    error = scene.fails("alarm", "loss-spike (severe, step 14)", "ended by itself; last export: step_99", **diverging,
                        stops="accepted")  # fmt: skip
    assert "at step 16 of 30" in str(error)
    assert what_is_missing(scene.run.path / "safetensors" / "step_99") == ""


@pytest.mark.parametrize("answer", ["accepted, and hangs", "409", None])
def test_an_engine_that_does_not_end_by_itself_is_ended(scene, diverging, answer):
    patience = replace(HASTE, leave=1.0, stall=20)
    error = scene.fails("alarm", "loss-spike (severe, step 14)", **diverging, stops=answer, patience=patience)
    assert "ended by itself" not in str(error)
    assert ("asked to save" in (scene.run.path / "log.txt").read_text()) == (answer == "accepted, and hangs")


def test_weights_that_are_no_numbers_are_not_saved(scene, monkeypatch):
    monkeypatch.setattr("cookbook.engine.watch.request_stop", lambda *_: pytest.fail("asked to save"))
    scene.fails("nan", until=STEP, say="\n".join(NAN.format(n) for n in (4, 5)))


def test_a_full_disk_is_found_before_the_start(scene, monkeypatch):
    usage = __import__("shutil").disk_usage("/")._replace(free=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(EngineError, match="disk"):
        scene.launch()


def test_a_controller_that_never_comes_up(scene):
    scene.fails("controller", "no line, no metric and no file", until="Waiting for controller", say="")


def test_a_controller_that_ends_at_once_shows_what_it_said(scene):
    said = (
        "config.toml:3: train.epoch: Error, not a number\n[cosmos] now - cosmos - ERROR - Process 7 exited with code 1."
    )
    scene.fails("controller", "train.epoch: Error, not a number", until="Waiting for controller", say=said, then="exit",
                code=1)  # fmt: skip


@pytest.mark.parametrize(
    "export, words", [("cut", "00000.safetensors cannot be read, was it cut off?"), ("none", "config.json is missing")]
)
def test_an_export_that_is_not_whole_is_a_failure(scene, export, words):
    scene.fails("export", words, export=export)


def test_exit_code_0_before_the_last_step_is_a_failure(scene):
    cut = scene.run.path / "short.log"
    cut.write_text((FAKE / "sft_ok.log").read_text().partition("Step: 4/12")[0] + "\n")
    scene.fails("unfinished", "at step 3 of 12", log=str(cut))


def test_redis_missing_is_said_before_the_start(scene):
    with pytest.raises(EngineError, match="redis-server and redis-cli not found"):
        launch(scene.config(), LOADER, scene.run, env={"PATH": str(FAKE)})


def test_ports_that_are_taken_are_replaced(scene, caplog):
    with socket.socket() as one, socket.socket() as two:
        for taken, port in ((one, scene.port), (two, scene.redis)):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        assert scene.launch().name == "step_12"
        text = (scene.run.path / "config.toml").read_text()
    assert f'redis = "{scene.redis}"' not in text
    assert f"port {scene.port} is in use; the controller gets" in caplog.text
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", scene.port))
        taken.listen()
        with pytest.raises(EngineError, match="the other nodes expect"):
            launch(scene.config(), LOADER, scene.run, port=scene.port, env=scene.environment(), nodes=2)


# ---- kill -9 ----------------------------------------------------------------------------------------------------

MOMENTS = {"start": "Controller is ready", "middle": "- Step: 6/12", "end": "- Step: 12/12"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["worker", "controller", "launcher"])
def test_nothing_is_left_when_one_of_them_is_killed(scene, victim, moment):
    scene.fails("launcher" if victim == "launcher" else "killed", until=MOMENTS[moment], kill=victim, stubborn=True)


def test_the_guardian_itself_may_be_killed(scene):
    def kill():
        for process in psutil.Process().children():
            if "cookbook.engine.guardian" in process.cmdline():
                process.kill()

    threading.Timer(1.2, kill).start()
    with pytest.raises(EngineError, match="cosmos-rl was killed"):
        scene.launch(until=STEP, patience=replace(HASTE, stall=20))
    # redis has wiped its environment and has no guardian any more: the one thing that can be left
    for connection in psutil.net_connections("tcp"):
        if connection.laddr.port == scene.redis and connection.pid:
            psutil.Process(connection.pid).kill()
            time.sleep(0.2)


@pytest.fixture
def listening():
    """A shell's background jobs are started deaf to Ctrl-C; this one hears it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_cleans_up_and_goes_on_as_ctrl_c(scene, listening):
    threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        scene.launch(until=STEP, patience=replace(HASTE, stall=20))
    assert json.loads((scene.run.path / "manifest.json").read_text())["outcome"] == "interrupted"


OURS = """
import sys
from cookbook.config import Config
from cookbook.engine.launch import launch
from cookbook.runs import Run
redis, loader, folder, port, path = sys.argv[1:]
config = Config.load("configs/tiny_sft.toml").edit({"redis": redis})
launch(config, loader, Run(folder, seed=0), port=int(port), env={"PATH": path})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_our_own_process_may_be_ended(scene, number):
    words = [scene.redis, LOADER, scene.run.path, scene.port, scene.path]
    environment = {**os.environ, **scene.environment(until=STEP), "PATH": os.environ["PATH"]}
    ours = subprocess.Popen(
        [sys.executable, "-c", OURS, *map(str, words)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    log = scene.run.path / "engine.log"
    wait(lambda: log.is_file() and STEP in log.read_text())
    ours.send_signal(number)
    assert ours.wait(20) == (-number if number == signal.SIGKILL else 143)
    wait(lambda: not scene.remains())


def wait(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


# ---- the parts --------------------------------------------------------------------------------------------------


def test_steps_of_both_trainings_are_read():
    sft = next(filter(None, map(parse_step, (FAKE / "sft_ok.log").read_text().splitlines())))
    assert (sft.number, sft.total, sft.values["Loss"]) == (1, 12, 6.17335)
    assert sft.values["optimizer/lr_model"] == 2e-3
    grpo = next(filter(None, map(parse_step, (FAKE / "grpo_colocated_ok.log").read_text().splitlines())))
    assert grpo.total == 8 and {"Reward Mean", "KL Loss Avg", "Iteration time"} <= grpo.values.keys()
    assert parse_step("[Policy] Step: 6, checkpoint saved successfully") is None


def test_good_logs_hold_no_trouble():
    for log in ("sft_ok.log", "grpo_colocated_ok.log", "sft_resume_ok.log"):
        assert traces((FAKE / log).read_text().splitlines()) == []


def test_the_first_traceback_is_found_among_those_of_ranks_that_talk_at_once():
    a = trace("ValueError: bad clip", rank=0).splitlines()
    b = trace("torch.distributed.DistBackendError: NCCL error", rank=1).splitlines()
    c = trace("ValueError: bad clip", rank=2).splitlines()
    mixed = [line for three in zip(b, a, c) for line in three]
    found = traces(mixed)
    assert root_cause(found).error == "ValueError: bad clip"
    assert [len(t.lines) for t in found] == [5, 5, 5]


def test_what_steps_followed_was_survived():
    lines = [*trace("ValueError: survived").splitlines(), "step", *trace("KeyError: 'fatal'").splitlines()]
    assert root_cause(traces(lines), after=6).error == "KeyError: 'fatal'"
    assert root_cause(traces(lines), after=99).error == "KeyError: 'fatal'"  # steps of what was left in a buffer


@pytest.mark.parametrize("stated, key, mode, expected", [
    ([], "", "", {}),
    (["console"], "k" * 40, "", {}),
    (["wandb"], "k" * 40, "", {}),
    (["wandb"], "", "", {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}),
    (["wandb"], "k" * 40, "offline", {"WANDB_MODE": "offline"}),
    (["wandb"], "", "disabled", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "0" * 40}),
])  # fmt: skip
def test_wandb_is_online_with_a_key_and_offline_without(tmp_path, stated, key, mode, expected):
    config = CONFIGS["sft"].edit({"logging.logger": stated})
    environment = {"HOME": str(tmp_path), "WANDB_API_KEY": key} | ({"WANDB_MODE": mode} if mode else {})
    assert wandb_environment(config, environment) == expected


def test_a_login_of_wandb_counts_as_a_key(tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    config = CONFIGS["sft"].edit({"logging.logger": ["wandb"]})
    assert wandb_environment(config, {"HOME": str(tmp_path)}) == {}


def test_the_environment_names_python_and_the_metrics_file(scene):
    found = engine_environment(scene.config(), scene.run.path, {"PATH": scene.path})
    assert found["COOKBOOK_METRICS"].endswith("engine_metrics.jsonl") and found["COOKBOOK_LOOPBACK"] == "1"
    assert found["PYTHONUNBUFFERED"] == found["COSMOS_REDIS_NO_TLS"] == "1"
    assert "COOKBOOK_LOOPBACK" not in engine_environment(scene.config(), scene.run.path, {"PATH": scene.path}, nodes=2)


def test_the_engine_gets_results_in_the_run_folder_steps_in_the_log_and_a_name_for_wandb():
    config = CONFIGS["sft"].edit({"logging.logger": ["wandb"], "train.timestamp": None})
    got = as_launched(config, ROOT / "runs" / "mine" / "sft")
    assert got["train.output_dir"] == "runs/mine/sft" and got["train.timestamp"]
    assert set(got["logging.logger"]) == {"console", "wandb"} and got["logging.wandb_run_id"] == "runs-mine-sft"


def test_results_of_an_earlier_run_are_not_deleted_unasked(tmp_path):
    export = tmp_path / "safetensors" / "step_900"
    export.mkdir(parents=True)
    with pytest.raises(EngineError, match="earlier run"):
        make_room(tmp_path, None, False)
    assert export.exists()
    make_room(tmp_path, None, True)
    assert not export.exists()


def test_silence_is_measured_by_the_usual_step_and_files_count_as_life(tmp_path):
    now = [0.0]
    watch = Watch(Run(tmp_path, seed=0), "SFT", Patience(), clock=lambda: now[0])
    assert watch.limit() == 600
    for step in range(1, 6):
        now[0] += 60
        watch.take(f"- Step: {step}/9, Loss: 1.5, Iteration time: 60.0s")
    assert watch.limit() == 600  # ten steps
    now[0] += 601
    assert watch.check().kind == "controller"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model_rank_0.pth").write_text("")  # a checkpoint takes its time
    assert watch.check() is None


def test_a_missing_engine_is_named():
    with pytest.raises(EngineError, match="cosmos-rl not found"):
        command(Path("x.toml"), LOADER, 8000, "/nowhere")


def test_kinds_are_told_apart():
    assert kind_of("nothing known", "stall") == "stall"
    assert kind_of("in __getitem__\nMemory: CUDA out of memory") == "memory"


@pytest.mark.parametrize(
    "kind, file, words",
    [("attention", "cosmos_rl/policy/kernel/modeling_utils.py", "FlashAttention is not installed"),
     ("attention", "transformers/modeling_utils.py", "FlashAttention2 has been toggled on"),
     ("length", "transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py", "features and video tokens do not match"),
     ("hub", "transformers/utils/hub.py", "We couldn't connect to '{HUGGINGFACE_CO_RESOLVE_ENDPOINT}'"),
     ("hub", "datasets/load.py", "Couldn't reach '{path}' on the Hub"),
     ("hub", "datasets/load.py", "on the Hub or cannot be accessed"),
     ("hub", "datasets/load.py", "is a gated dataset on the Hub")],
)  # fmt: skip
def test_the_installed_packages_still_say_what_the_patterns_look_for(kind, file, words):
    place = next((p for p in map(Path, sys.path) if (p / file).is_file()), None)
    if place is None:
        pytest.skip(f"{file} is not installed here")
    assert words in (place / file).read_text(encoding="utf-8")
    assert kind_of(words.replace("{HUGGINGFACE_CO_RESOLVE_ENDPOINT}", "https://huggingface.co")) == kind


def test_start_files_for_several_machines_are_bash_and_use_flags_that_exist(tmp_path):
    files = nodes_module.write_start_files(tmp_path, Path("configs/sft_8gpu.toml"), Path(LOADER), "a b/sft", 2, 8000)
    for file in files:
        subprocess.run(["bash", "-n", file], check=True)
    words = set((tmp_path / "worker.sh").read_text().replace("+", " ").split())
    flags = {word for word in words if word.startswith("--")}
    launcher = Path(nodes_module.ROOT) / ".venv"
    found = next(launcher.glob("lib/python3.*/site-packages/cosmos_rl/launcher/launch_all.py"), None)
    if found is None:
        pytest.skip("cosmos-rl is not installed")
    assert flags and all(f'"{flag}"' in found.read_text() for flag in flags)


# ---- the true launcher ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_true_launcher_comes_up_and_its_dead_worker_is_noticed(tmp_path):
    """Without a GPU the policy dies when it joins its process group, and the launcher waits for ever."""
    try:
        find_redis()
    except EngineError as error:
        pytest.skip(str(error))
    pytest.importorskip("cosmos_rl.launcher", exc_type=ImportError)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path), os.environ["PATH"]])
    run = Run(tmp_path / "run", seed=0)
    with pytest.raises(EngineError) as caught:
        launch(CONFIGS["sft"], "tests/assets/engine/loader.py", run, env={"PATH": path}, patience=Patience(dead=5))
    log = (run.path / "engine.log").read_text()
    assert "Redis server started" in log and "Controller is ready" in log
    assert caught.value.kind in ("gpu", "nccl", "worker")
    assert "Traceback" in str(caught.value)
    port = int(Config.load(run.path / "config.toml")["redis"])
    assert is_free(port) and is_free(int(json.loads((run.path / "manifest.json").read_text())["port"]))
