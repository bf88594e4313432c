"""Serving: the answers and token counts of a real server on loopback, the lines for others, and what is refused."""

import json
import shlex
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from cookbook.data.architecture import QWEN3_VL
from cookbook.data.contract import ContractError
from cookbook.deploy.app import run_server
from cookbook.deploy.quantise import contract_of, open_form
from cookbook.deploy.serve import IMAGES, check_server, longest, require_same_prompts, serve_line, served
from cookbook.evaluation.predict import predict
from cookbook.evaluation.server import ServerError, chat, predict_server
from cookbook.evaluation.vllm import started, take_port

NAME = "mine"  # as conftest.py serves it


@pytest.fixture(scope="module")
def opened(full):
    return open_form(full)


def test_a_server_answers_what_the_model_does_here(address, opened, samples, contract):
    rows = predict_server(address, NAME, samples[:8], contract, limit=16)
    assert not [row["error"] for row in rows if row["error"]]
    here = predict(*opened, samples[:8], "here", limit=16)
    assert [row["output"] for row in rows] == [row["output"] for row in here]


def test_its_prompts_are_those_of_the_contract(address, opened, samples):
    checks = check_server(address, NAME, samples[:3], opened[1])
    assert [check.status for check in checks] == ["ok"] * 3 and "8 frames" in checks[0].found
    require_same_prompts(checks, address)


def test_a_prompt_of_text_alone_is_answered(address, contract):
    assert chat(address, NAME, [{"role": "user", "content": "Is it red?"}], max_tokens=4)


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mm_processor_kwargs": {"fps": 4}}, "fps: 4 is asked for, 2 served"),
        ({"stream": True}, "no stream"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "system prompt is not that of the contract"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://x/y.mp4"}}]}]},
         "addresses are not fetched"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "there are text, video_url and image_url"),
        ({"messages": [3]}, "subscriptable"),
    ],
)  # fmt: skip
def test_what_a_server_does_not_honour_it_refuses(address, changed, said):
    asked = {"messages": [{"role": "user", "content": "?"}]} | changed
    with pytest.raises(ServerError, match=rf"400.*({said})"):
        chat(address, NAME, asked.pop("messages"), **asked)


def test_another_contract_or_name_than_the_servers_is_told(address, opened, samples):
    encoder = opened[1]
    with pytest.raises(ServerError, match="serves mine, not other; start it with that name"):
        check_server(address, "other", samples[:1], encoder)
    with pytest.raises(ServerError, match="'other' is not served here"):
        chat(address, "other", [{"role": "user", "content": "?"}])
    slow = type(encoder)(encoder.processor, replace(encoder.contract, vision=replace(encoder.contract.vision, fps=1)),
                         encoder.config)  # fmt: skip
    with pytest.raises(ServerError, match="fps: 1 is asked for, 2 served"):
        check_server(address, NAME, samples[:1], slow)


# ---- servers that are not ours ---------------------------------------------------------------------------------------


@pytest.fixture
def fake():
    """A server that says it serves `mine`, and answers with what a test sets."""

    class Handler(BaseHTTPRequestHandler):
        def _send(self, body):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            self._send({"data": [{"id": NAME}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send({"choices": [{"message": {"content": "x"}}]} | server.told)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.told, server.url = {}, f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_that_takes_more_frames_is_refused_with_how_many(fake, opened, samples):
    encoder, sample = opened[1], samples[0]
    own, (t, h, w) = len(encoder.tokens(sample, generate=True).ids), encoder.media(*next(iter(sample.media()))).grid
    fake.told = {"usage": {"prompt_tokens": own + 12 * h * w // 4}}
    checks = check_server(fake.url, NAME, [sample], encoder)
    assert f"it sees {2 * t + 24} frames, not {2 * t}" in checks[0].found
    with pytest.raises(ServerError, match=rf"is not under the contract: {sample.id}"):
        require_same_prompts(checks, fake.url)
    fake.told = {"usage": {"prompt_tokens": own + 1}}
    assert "other frames or words" in check_server(fake.url, NAME, [sample], encoder)[0].found


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("told", "said"),
    [({"model": "another", "usage": {"prompt_tokens": 3}}, "was asked for mine, and answers as another"),
     ({}, "does not count a prompt's tokens"), ({"usage": []}, "does not count a prompt's tokens")],
)  # fmt: skip
def test_a_server_that_answers_as_another_or_does_not_count_is_one_line(fake, told, said, opened, samples):
    fake.told = told
    with pytest.raises(ServerError, match=said):
        check_server(fake.url, NAME, samples[:1], opened[1])


def test_reasoning_that_comes_apart_is_put_back(fake):
    fake.told = {"choices": [{"message": {"reasoning_content": "They pass.", "content": "\n<answer>A</answer>"}}]}
    assert chat(fake.url, NAME, []) == "<think>They pass.</think>\n\n<answer>A</answer>"


# ---- how it starts ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("inputs")
def test_a_port_in_use_is_one_line(full):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"^port {port} of 127.0.0.1 cannot be taken.*another with --port$"):
            served(full, NAME, port=port).__enter__()
    assert take_port(port) == port


@pytest.mark.fault("inputs")
def test_a_server_that_dies_while_it_starts_is_one_line(full, tmp_path):
    with pytest.raises(RuntimeError, match=r"^the server ended, and said last: CUDA out of memory$"):
        started([sys.executable, "-c", "raise SystemExit('CUDA out of memory')"], 9, "the server").__enter__()
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in full.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError, match=r"^the server ended, and said last: .*NaN or infinity in model") as error:
        served(folder, NAME).__enter__()
    assert "\n" not in str(error.value)


def test_a_server_ends_with_the_process_that_began_it(full):
    line = [sys.executable, "-m", "cookbook.deploy", "serve", str(full), "--ends", "--port", str(take_port())]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdin.close()
        assert process.wait(120)


@pytest.mark.fault("security")
@pytest.mark.parametrize("host", ["0.0.0.0", "example.org", "::"])
def test_only_this_machine_is_listened_to_unless_asked(host, full, contract):
    with pytest.raises(ServerError, match="add --open"):
        run_server(str(full), NAME, contract, host, 0)


def test_the_line_states_the_contract(full, forms, contract):
    line = shlex.split(serve_line(full, NAME, contract, 8001, parser="qwen3"))
    told = dict(pairwise(line))
    assert line[:3] == ["vllm", "serve", str(full)] and told["--served-model-name"] == NAME
    assert json.loads(told["--mm-processor-kwargs"]) == {"fps": 2, "min_pixels": 784, "max_pixels": 3136}
    assert json.loads(told["--media-io-kwargs"])["video"]["fps"] == 2
    assert json.loads(told["--limit-mm-per-prompt"]) == {"video": 1, "image": 1}
    assert (
        told["--max-model-len"] == str(longest(contract, 4096))
        and told["--reasoning-parser"] == "qwen3"
        and told["--port"] == "8001"
    )
    assert told["--chat-template"] == str(full / "chat_template.jinja")
    assert str(forms["int8"]) in serve_line(forms["int8"], NAME, contract, 8001)
    for where in IMAGES:  # the port of a container is open to this machine alone
        inside = shlex.split(serve_line(full, NAME, contract, 8001, where))
        assert inside[0] == "docker" and IMAGES[where] in inside and f"{full}:/checkpoint:ro" in inside
        assert [word for word in inside if word.startswith("127.0.0.1:8001:")] and "127.0.0.1" not in inside


def test_the_longest_prompt_fits(contract):
    seven = replace(contract, vision=replace(contract.vision, fps=4, max_pixels=81_920, max_frames=32))
    assert longest(seven, 128_000) == 32 * 81_920 // (2 * 784) + 2048 + contract.max_new_tokens
    assert longest(contract, 2000) == 2000
    eight = seven.for_base(QWEN3_VL)  # as many tokens, of larger patches
    assert longest(eight, 128_000, QWEN3_VL.unit) == pytest.approx(longest(seven, 128_000), abs=1)


def test_a_contract_that_is_not_the_checkpoints_is_refused_before_anything_starts(full, tmp_path, contract):
    replace(contract, system="").save(tmp_path / "other.yaml")
    with pytest.raises(ContractError, match="system"):
        served(full, NAME, contract=tmp_path / "other.yaml").__enter__()
    assert contract_of(full) == contract
