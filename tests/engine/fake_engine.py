"""A launch of the fake engine: tests/assets/engine/cosmos-rl replays recorded logs with the real one's processes."""

import json
import os
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from cookbook.config import Config
from cookbook.engine.environment import free_port, is_free
from cookbook.engine.failures import FAILURES, EngineError
from cookbook.engine.launch import launch
from cookbook.engine.supervisor import Patience
from cookbook.runs import ROOT, Run

FAKE = ROOT / "tests/assets" / "engine"
LOADER = "data_tools/llava_sft.py"
HASTE = Patience(start=4.0, stall=1.5, dead=0.4, fatal=0.6, stop=0.5, tick=0.1)
BASE = {"policy.model_name_or_path": "models/tiny-base"}  # the notebooks may be training its usual start at this moment
CONFIGS = {"sft": Config.load("configs/tiny_sft.toml"), "grpo": Config.load("configs/tiny_rl.toml").edit(BASE)}
STEP = "- Step: 3/12"
NAN = "[rank0]:[cosmos] now - cosmos - INFO - Step: {}/12, Loss: nan, Grad norm: nan, Iteration time: 0.16s"


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
        for word in (*words, FAILURES[kind][1]):
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


def trace(error: str, frame: str = "site-packages/cosmos_rl/policy/worker/sft_worker.py", rank: int = 0) -> str:
    entry = '  File "/x/data_tools/llava_sft.py", line 27, in <module>'  # the loader file starts every process
    lines = ["Traceback (most recent call last):", entry, f'  File "{frame}", line 9, in main_loop', "    go()", error]
    return "\n".join(f"[rank{rank}]:{line}" for line in lines)
