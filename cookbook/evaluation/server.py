"""Ask a model behind an OpenAI-compatible server: vLLM, NIM, or any service with /chat/completions.

Why: an 8-GPU server answers while this process has no GPU, and the same server can be a judge of free text. The rows
are those of `cookbook.evaluation`, so that nothing after them knows the difference. The server must honour the
contract's frame rate and pixels (vLLM: `mm_processor_kwargs`); one that does not sees other frames than in training.

    rows = predict_server("http://localhost:8000/v1", "my-model", samples, contract, "sft")
"""

import base64
import json
import mimetypes
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cookbook.data.contract import Contract
from cookbook.data.samples import MEDIA, Sample
from cookbook.evaluation.predictions import Store

KEY = "OPENAI_API_KEY"  # read from the environment and sent as a bearer token, where it is set


class ServerError(RuntimeError):
    """A server that cannot be reached or refuses; the message has its address and what it said."""


def chat(
    url: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    timeout: float = 600,
    retries: int = 3,
    wait: float = 1.0,
    **options: Any,
) -> str:
    """Returns what the server's model says to a conversation; `url` ends in /v1, `options` go into the request.

    Asks again after a lost connection, 429 or 5xx, `wait` seconds later and twice as long each time.
    Raises ServerError where that does not help, or the answer has another form.
    """
    body = json.dumps({"model": model, "messages": list(messages), **options}).encode()
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", body, headers)
    for attempt in range(retries + 1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.load(reply)["choices"][0]["message"]["content"] or ""
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read(300).decode(errors='replace')}"
            if error.code != 429 and error.code < 500:
                break
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ServerError(f"{request.full_url}: answers in another form than expected ({error!r})") from None
        except OSError as error:  # no connection, or none within the time
            problem = str(error)
        if attempt < retries:
            time.sleep(wait * 2**attempt)
    raise ServerError(f"{request.full_url}: {problem}")


def openai_messages(chat_messages: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Returns a contract's conversation with its clips and images as data URIs. Raises OSError for a missing file."""

    def part(found: Mapping[str, Any]) -> dict:
        if (kind := found["type"]) not in MEDIA:
            return {"type": "text", "text": found["text"]}
        path = Path(found[kind])
        form = mimetypes.guess_type(path.name)[0] or ("video/mp4" if kind == "video" else "image/png")
        data = base64.b64encode(path.read_bytes()).decode()
        return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{form};base64,{data}"}}

    return [{"role": turn["role"], "content": [part(p) for p in turn["content"]]} for turn in chat_messages]


def predict_server(
    url: str,
    model: str,
    samples: Sequence[Sample],
    contract: Contract,
    name: str | None = None,
    limit: int = 1024,
    path: Path | None = None,
    temperature: float = 0.0,
    workers: int = 8,
    **options: Any,
) -> list[dict]:
    """Returns the rows that `cookbook.evaluation.predict` would, one a sample, in their order.

    `workers` requests are under way at once, and `path` is resumed as there. A clip that cannot be read, or a request
    that fails for good, becomes a row with its error. `options` go into every request, and `retries` and `timeout` to
    `chat`. The weights are not known; the row has the server's model name instead.
    """
    vision = {key: value for key, value in asdict(contract.vision).items() if key != "max_frames"}
    told = {"temperature": temperature, "max_tokens": limit, "mm_processor_kwargs": vision} | options
    stamp = {"model": name or model, "weights": None, "decoding": f"server {model}, {temperature}, {limit} tokens"}

    def ask(sample: Sample) -> tuple[list[str], str | None]:
        try:
            return [chat(url, model, openai_messages(contract.conversation(sample.prompt)), **told)], None
        except (OSError, ServerError) as error:
            return [], str(error)

    with Store(path, samples, contract, stamp) as store, ThreadPoolExecutor(workers) as pool:
        asked = {pool.submit(ask, sample): sample for sample in store.todo}
        for future in as_completed(asked):
            store.add(asked[future], *future.result())
    return store.rows
