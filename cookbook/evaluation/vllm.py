"""vLLM, where it is installed: started for one checkpoint under its contract, waited for, and stopped.

Why: vLLM answers many times faster than transformers, but by default it takes 32 frames of any clip, whatever the
contract says. So the line that starts it states the contract's rate and pixels.

    with vllm_server("runs/mine/sft", contract) as address:
        rows = predict_server(address, "runs/mine/sft", samples, contract)
"""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from cookbook import checkpoint
from cookbook.data.contract import Contract

PROGRAM = "vllm"
START = 1800  # seconds until it must answer: a 7B model is loaded and compiled in two to five minutes
STOP = 60  # seconds that it may take to end


def vllm_command(
    model: str, contract: Contract, port: int, gpus: int = 1, folder: Path | None = None, more: Sequence[str] = ()
) -> list[str]:
    """Returns the line that serves a checkpoint to this machine alone, under `model` as its name.

    Each GPU holds the whole model. `num_frames` -1 leaves the choice of frames to the model's processor. `folder` is
    where the weights lie, by default as `checkpoint.find` says; `more` stands at the end.
    """
    limits = {key: value for key, value in contract.vision.stated().items() if key != "max_frames"}
    reads = {"video": {"num_frames": -1, "fps": contract.vision.fps}}
    return [
        *(PROGRAM, "serve", str(folder or checkpoint.find(model)), "--served-model-name", model),
        *("--host", "127.0.0.1", "--port", str(port), "--data-parallel-size", str(gpus)),
        *("--mm-processor-kwargs", json.dumps(limits), "--media-io-kwargs", json.dumps(reads)),
        *("--generation-config", "vllm"),  # not the checkpoint's own temperature
        *more,
    ]


@contextmanager
def vllm_server(model: str, contract: Contract, gpus: int = 1) -> Iterator[str]:
    """Yields the address, ending in /v1, of a vLLM that serves a checkpoint; it ends with the block.

    Raises RuntimeError where vLLM is not installed, ends by itself, or does not answer in half an hour.
    """
    if not shutil.which(PROGRAM):
        raise RuntimeError("vllm is not installed here; leave out --vllm, or name a server with --server")
    port = take_port()
    with started(vllm_command(model, contract, port, gpus), port) as address:
        yield address


def take_port(port: int = 0, host: str = "127.0.0.1") -> int:
    """Returns a port that nobody listens on, any for 0. Raises RuntimeError where the given one is taken."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been closed is free
        try:
            free.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", "") or error
            raise RuntimeError(f"port {port} of {host} cannot be taken ({why}); name another with --port") from None
        return free.getsockname()[1]


@contextmanager
def started(command: Sequence[str], port: int, name: str = PROGRAM) -> Iterator[str]:
    """Yields the address, ending in /v1, of the server that a command starts at `port`; it ends with the block.

    Raises RuntimeError, with the end of its log, where it ends by itself or does not answer.
    """
    with tempfile.NamedTemporaryFile("w+", suffix=".log", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", Path(log.name), name)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen, address: str, log: Path, name: str) -> None:
    """Return when the server answers. Raises RuntimeError, with the end of its log, where it never will."""
    end = time.monotonic() + START
    while process.poll() is None and time.monotonic() < end:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    said = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    ended = process.poll() is not None
    raise RuntimeError(f"{name} {'ended' if ended else f'gave no answer in {START} s'}, and said last: {said or '-'}")
