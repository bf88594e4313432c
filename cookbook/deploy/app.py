"""A small OpenAI-compatible server for a checkpoint under its contract: FastAPI, one question at a time.

Why: the client, the checks and the notebook meet a real server on any machine, without vLLM and without a GPU. It
listens to this machine alone, since it knows neither keys nor users, and refuses what the contract does not have.

    python -m cookbook.deploy serve runs/tutorial/rl --ours --port 8000
"""

import base64
import hashlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cookbook.data.contract import Contract
from cookbook.data.samples import MEDIA, Sample, message, text
from cookbook.deploy.quantise import open_form
from cookbook.evaluation.server import ServerError
from cookbook.evaluation.vllm import take_port
from cookbook.model.generation import generate, to

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SUFFIXES = {"video/mp4": ".mp4", "image/png": ".png", "image/jpeg": ".jpg"}


def server_app(path: str | Path, name: str, contract: Contract | None = None):
    """Returns the FastAPI application that answers as an OpenAI-compatible server does, one question at a time.

    What differs from the checkpoint's contract (prompt, rate, pixels), another model's name, streams and addresses of
    clips are refused with 400. A clip comes as a data URI.
    """
    from fastapi import Body, FastAPI
    from fastapi.responses import JSONResponse

    model, encoder = open_form(path, contract)
    app, one, folder = FastAPI(openapi_url=None), threading.Lock(), TemporaryDirectory()

    @app.get("/health")
    def health() -> dict:
        return {}

    @app.get("/v1/models")
    def models() -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "cookbook"}]}

    @app.post("/v1/chat/completions")
    def answer(asked: dict = Body()):  # noqa: B008, FastAPI's own way
        try:
            sample = _sample(asked, name, encoder.contract, Path(folder.name))
            limit, warmth = int(asked.get("max_tokens") or encoder.contract.max_new_tokens), asked.get("temperature", 0)
            with one:
                prompt = encoder.prompt_batch([sample])
                out = generate(model, to(model, prompt), max(1, limit), float(warmth))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            return JSONResponse({"error": {"message": words, "type": type(error).__name__}}, 400)
        words = out.texts(encoder.tokenizer)[0]
        told, made = int(prompt["attention_mask"].sum()), int(out.mask.sum())
        return {
            "object": "chat.completion", "model": name,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": words},
                         "finish_reason": "stop" if bool(out.ended[0]) else "length"}],
            "usage": {"prompt_tokens": told, "completion_tokens": made, "total_tokens": told + made},
        }  # fmt: skip

    return app


def _sample(asked: Mapping[str, Any], name: str, contract: Contract, folder: Path) -> Sample:
    """Returns what a request asks, its clips as files. Raises ValueError for what is not served here."""
    if asked["model"] != name:
        raise ValueError(f"{asked['model']!r} is not served here, {name!r} is")
    if asked.get("stream") or asked.get("n", 1) != 1:
        raise ValueError("one whole answer is given, no stream and no choices: leave out stream and n")
    stated = contract.vision.stated()
    given = (asked.get("mm_processor_kwargs") or {}).items()
    if differs := [f"{k}: {v!r} is asked for, {stated.get(k)!r} served" for k, v in given if stated.get(k) != v]:
        raise ValueError(f"mm_processor_kwargs differ from the contract {contract.hash}: {'; '.join(differs)}")

    def part(given: Mapping[str, Any]) -> dict:
        if given["type"] == "text":
            return text(given["text"])
        if (kind := given["type"].removesuffix("_url")) not in MEDIA:
            raise ValueError(f"a part is of type {given['type']!r}; there are text, video_url and image_url")
        head, found, data = given[f"{kind}_url"]["url"].partition(";base64,")
        if not found or not head.startswith("data:"):
            raise ValueError(f"a {kind} comes as data:…;base64,… in the request; addresses are not fetched")
        content = base64.b64decode(data, validate=True)
        suffix = SUFFIXES.get(head.removeprefix("data:"), ".mp4" if kind == "video" else ".png")
        file = folder / (hashlib.sha256(content).hexdigest() + suffix)  # a clip that is asked again is read once
        file.write_bytes(content)
        return {"type": kind, kind: str(file)}

    turns = [
        message(turn["role"], *map(part, [text(c)] if isinstance(c := turn["content"], str) else c))
        for turn in asked["messages"]
    ]
    system = "".join(p["text"] for turn in turns if turn["role"] == "system" for p in turn["content"])
    if contract.system and system and system != contract.system:
        raise ValueError(f"the system prompt is not that of the contract {contract.hash}")
    return Sample("request", "request", tuple(turns))


def run_server(
    path: str, name: str, contract: Contract, host: str, port: int, is_open: bool = False, ends: bool = False
) -> None:
    """Serve until it is stopped; where it `ends`, until its input is closed, as when the process that began it died.

    Raises RuntimeError for a port in use, ServerError for a host that is not loopback.
    """
    import uvicorn

    if host not in LOOPBACK and not is_open:
        raise ServerError(f"--host {host}: others may reach a server that asks for no key; add --open if that is meant")
    take_port(port, host)
    if ends:
        stop = lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM))  # noqa: E731
        threading.Thread(target=stop, daemon=True).start()
    app = server_app(path, name, contract)
    print(f"serving {name} at http://{host}:{port}/v1; Ctrl-C stops it", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")
