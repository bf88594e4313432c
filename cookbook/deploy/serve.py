"""Serve a checkpoint under its contract: the line for vLLM, docker, Jetson or NIM, and what a server really sees.

Why: a server that takes other frames than training did answers worse, and says nothing. So the line states the
contract, and `check_server` counts: the tokens of a prompt are those that the contract makes of it, or the server is
refused with what differs. Where there is no vLLM, the server is ours (`cookbook.deploy.app`).

    python -m cookbook.deploy serve runs/tutorial/rl --port 8000                # vLLM where it is, else ours
    python -m cookbook.deploy serve runs/mine/rl --line vllm|docker|jetson|nim  # prints it, and starts nothing
    with served("runs/tutorial/rl", "mine") as address:
        check_server(address, "mine", samples[:2], encoder)
"""

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
import torch

from cookbook.data.architecture import architecture
from cookbook.data.contract import Contract
from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.data.vision import TEMPORAL_PATCH, UNIT
from cookbook.deploy.quantise import SETTINGS, contract_of, form_of
from cookbook.display.tables import ERROR, OK, Check
from cookbook.evaluation.server import ServerError, openai_messages, reply
from cookbook.evaluation.vllm import PROGRAM, started, take_port, vllm_command
from cookbook.runs import ROOT, read_json

ROOM = 2048  # tokens for system prompt and question, beside clip and answer
PLACE = "/checkpoint"  # of the weights, inside a container
IMAGES = {  # as their documents name them; a tag of a date is better than the newest
    "docker": "vllm/vllm-openai:latest",
    "jetson": "ghcr.io/nvidia-ai-iot/vllm:latest-jetson-thor",
    "nim": "nvcr.io/nim/nvidia/cosmos-reason1-7b:latest",
}


def longest(contract: Contract, positions: int, unit: int = UNIT) -> int:
    """Returns the tokens that the longest prompt under a contract and its answer take, at most the model's positions.

    Each two frames become a token for each `unit` x `unit` pixels.
    """
    vision = contract.vision
    pixels = min(vision.max_frames * vision.max_pixels, vision.total_pixels)
    return min(positions, pixels // (TEMPORAL_PATCH * unit**2) + ROOM + contract.max_new_tokens)


def serve_line(
    path: str | Path, name: str, contract: Contract, port: int, where: str = "vllm", parser: str = ""
) -> str:
    """Returns the line that serves a checkpoint under its contract: by vLLM here or in a container, or by a NIM.

    `parser` is vLLM's name of a reasoning parser (qwen3, deepseek_r1): the reasoning then comes apart from the answer,
    which `evaluation.server.chat` puts together again.
    """
    folder, _ = form_of(path)
    text = read_json(folder / SETTINGS).get("text_config", {})
    positions = text.get("max_position_embeddings", 128_000) if isinstance(text, dict) else 128_000
    most = longest(contract, positions, architecture(folder).unit)
    more = ["--max-model-len", str(most), "--limit-mm-per-prompt", '{"video": 1, "image": 1}']
    more += [part for file in folder.glob("chat_template.*") for part in ("--chat-template", str(file))][:2]
    line = vllm_command(name, contract, port, 1, folder, [*more, *(("--reasoning-parser", parser) if parser else ())])
    if where == "vllm":
        return shlex.join(line)
    inside = [word.replace(str(folder), PLACE) for word in line[2:]]
    inside[inside.index("127.0.0.1")] = "0.0.0.0"  # of the container; the port is open to this machine alone
    gpus = ["--runtime", "nvidia"] if where == "jetson" else ["--gpus", "all"]
    run = ["docker", "run", "--rm", *gpus, "--ipc", "host", "-v", f"{folder}:{PLACE}:ro", "-p"]
    if where == "nim":  # it chooses frames by its own settings: ask `check_server`
        told = ["-e", f"NIM_MODEL_NAME={PLACE}", "-e", f"NIM_SERVED_MODEL_NAME={name}"]
        return shlex.join([*run, f"127.0.0.1:{port}:8000", *told, IMAGES[where]])
    program = ["--entrypoint", PROGRAM, IMAGES[where]] if where == "docker" else [IMAGES[where], PROGRAM]
    return shlex.join([*run, f"127.0.0.1:{port}:{port}", *program, "serve", *inside])


@contextmanager
def served(path: str | Path, name: str, contract: str | Path = "", port: int = 0) -> Iterator[str]:
    """Yields the address, ending in /v1, of a server of a checkpoint; it ends with the block.

    vLLM where it is installed beside a GPU, else ours. Raises RuntimeError for a port in use and for a server that
    ends while it starts; CheckpointError and ContractError before any is started.
    """
    bound, port = contract_of(path, Contract.load(ROOT / contract) if contract else None), take_port(port)
    line = shlex.split(serve_line(path, name, bound, port))
    if not with_vllm():
        line = [sys.executable, "-m", "cookbook.deploy", "serve", str(path), "--ends", "--name", name]
        line += ["--port", str(port), *(("--contract", str(contract)) if contract else ())]
    with started(line, port, PROGRAM if with_vllm() else "the server") as address:
        yield address


def with_vllm() -> bool:
    """Whether vLLM is installed beside a GPU."""
    return bool(shutil.which(PROGRAM)) and torch.cuda.is_available()


def check_server(url: str, name: str, samples: Sequence[Sample], encoder: Encoder) -> list[Check]:
    """Returns for each sample whether a server's prompt has the tokens, and so the frames, that the contract makes.

    Raises ServerError for a server that cannot be asked, or that answers as another model than `name`.
    """
    try:
        listed = requests.get(f"{url.rstrip('/')}/models", timeout=30).json()["data"]
        there = [str(model["id"]) for model in listed]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{url}: does not say what it serves ({type(error).__name__})") from None
    if name not in there:
        raise ServerError(f"{url}: serves {', '.join(there)}, not {name}; start it with that name, or ask for this one")
    vision = {key: value for key, value in encoder.contract.vision.stated().items() if key != "max_frames"}
    return [_check(url, name, sample, encoder, vision) for sample in samples]


def _check(url: str, name: str, sample: Sample, encoder: Encoder, vision: Mapping[str, float]) -> Check:
    turns = openai_messages(encoder.contract.conversation(sample.prompt))
    said = reply(url, name, turns, max_tokens=1, temperature=0.0, mm_processor_kwargs=vision)
    if said.get("model", name) != name:
        raise ServerError(f"{url}: was asked for {name}, and answers as {said['model']}")
    told = said.get("usage", {}).get("prompt_tokens") if isinstance(said.get("usage"), dict) else None
    if not isinstance(told, int):
        raise ServerError(f"{url}: does not count a prompt's tokens (usage.prompt_tokens), so it cannot be checked")
    own, clips = len(encoder.tokens(sample, generate=True).ids), [encoder.media(*m).grid for m in sample.media()]
    frames = sum(t * TEMPORAL_PATCH for t, _, _ in clips)
    if told == own:
        return Check(sample.id, OK, f"{own} tokens, {frames} frames, as the contract has it")
    each = clips[0][1] * clips[0][2] // 4 if len(clips) == 1 else 0  # of two frames: patches are merged two by two
    steps, rest = divmod(told - own, each) if each else (0, 1)
    seen = "other frames or words" if rest else f"it sees {frames + steps * TEMPORAL_PATCH} frames, not {frames}"
    return Check(sample.id, ERROR, f"{told} tokens, the contract makes {own}: {seen}", "see `serve --line vllm`")


def require_same_prompts(checks: Sequence[Check], url: str) -> None:
    """Raises ServerError, naming the first difference, where a server sees other prompts than the contract makes."""
    if wrong := next((check for check in checks if check.status != OK), None):
        raise ServerError(f"{url}: is not under the contract: {wrong.name}: {wrong.found}")
