"""Processes: nothing of the engine is left, whoever is killed, and Ctrl-C stays Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
from fake_engine import HASTE, LOADER, STEP

from cookbook.engine.failures import EngineError
from cookbook.runs import ROOT

MOMENTS = {"start": "Controller is ready", "middle": "- Step: 6/12", "end": "- Step: 12/12"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["worker", "controller", "launcher"])
def test_nothing_is_left_when_one_of_them_is_killed(scene, victim, moment):
    scene.fails("launcher" if victim == "launcher" else "killed", until=MOMENTS[moment], kill=victim, stubborn=True)


@pytest.mark.fault("local engine")
def test_a_killed_guardian_is_noticed_and_leaves_nothing(scene):
    def kill():
        log = scene.run.path / "engine.log"
        wait(lambda: log.is_file() and STEP in log.read_text())
        for process in psutil.Process().children():
            if "cookbook.engine.guardian" in process.cmdline():
                process.kill()

    bystander = subprocess.Popen(["sleep", "100"])
    threading.Thread(target=kill).start()
    with pytest.raises(EngineError, match="cosmos-rl was killed"):
        scene.launch(until=STEP, patience=replace(HASTE, stall=20))
    assert not scene.remains()  # its orphans are ours, and were ended
    assert bystander.poll() is None  # and nothing else of ours
    bystander.kill()
    bystander.wait()


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


def wait(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
