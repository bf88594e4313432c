"""Published ways to draw answers: what transformers draws by the same settings, and what the model then sees."""

import json
import stat

import pytest
import torch

from cookbook import pipeline
from cookbook.evaluation.predict import predict
from cookbook.evaluation.presets import preset
from cookbook.evaluation.vllm import vllm_command, vllm_server


def test_a_preset_says_what_is_drawn_and_what_is_seen(contract):
    seen, how = preset("video_rewards", contract)
    assert how == {"temperature": 0.6, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.05, "limit": 4096, "seed": 1}
    assert (seen.vision.fps, seen.vision.total_pixels) == (16, 8192 * 28 * 28) and seen.system == contract.system
    assert preset("", contract) == (contract, {"limit": contract.max_new_tokens})
    with pytest.raises(ValueError, match="no preset 'gready'; it has greedy, "):
        preset("gready", contract)


@pytest.fixture(scope="module")
def asked(contract):
    return pipeline.open_model("models/tiny-base", contract)


def outputs(asked, samples, **how) -> list[str]:
    return [row["output"] for row in predict(*asked, samples, "base", limit=16, **how)]


def test_a_penalty_is_that_of_transformers_and_sees_no_padding(asked, samples, stock):
    encoder = asked[1]
    said = outputs(asked, samples[:4], repetition_penalty=1.5)
    assert said != outputs(asked, samples[:4])
    for sample, ours in zip(samples[:4], said):
        batch = encoder.prompt_batch([sample])
        del batch["position_ids"]
        seconds = torch.tensor([encoder.media("video", sample.video).seconds_per_step])
        how = {"second_per_grid_ts": seconds, "max_new_tokens": 16, "do_sample": False, "repetition_penalty": 1.5}
        theirs = stock.generate(**batch, **how)[0, batch["input_ids"].shape[1] :]
        assert ours == encoder.tokenizer.decode(theirs, skip_special_tokens=True)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}])
def test_where_one_word_is_left_a_draw_is_greedy(asked, samples, narrow):
    greedy = outputs(asked, samples[:4])
    assert outputs(asked, samples[:4], temperature=2.0, **narrow) == greedy
    assert outputs(asked, samples[:4], temperature=2.0) != greedy


def test_a_setting_that_nobody_knows_is_refused(asked, samples):
    with pytest.raises(ValueError, match="top_kk: no such setting; there are temperature, "):
        outputs(asked, samples[:1], top_kk=1)


# ---- vLLM -----------------------------------------------------------------------------------------------------------

FAKE = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
{first}
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a program `vllm` on PATH that answers /health only, or does first what it is given."""
    import sys

    def make(first: str = "") -> None:
        program = tmp_path / "vllm"
        program.write_text(FAKE.format(python=sys.executable, first=first))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    return make


def test_vllm_is_told_the_contract_and_ends_with_the_block(fake, contract):
    import requests

    fake()
    with vllm_server("models/tiny-base", contract) as address:
        health = address.removesuffix("/v1") + "/health"
        assert requests.get(health, timeout=5).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(health, timeout=5)
    line = vllm_command("models/tiny-base", contract, 8000, gpus=4)
    told = json.loads(line[line.index("--mm-processor-kwargs") + 1])
    assert (told["fps"], told["max_pixels"]) == (contract.vision.fps, contract.vision.max_pixels)
    assert line[line.index("--served-model-name") + 1] == "models/tiny-base" and "127.0.0.1" in line


def test_a_vllm_that_is_missing_or_dies_is_one_line(fake, contract, monkeypatch, tmp_path):
    fake("sys.exit('CUDA out of memory')")
    with pytest.raises(RuntimeError, match=r"^vllm ended, and said last: CUDA out of memory$"):
        vllm_server("models/tiny-base", contract).__enter__()
    (tmp_path / "vllm").unlink()
    with pytest.raises(RuntimeError, match="vllm is not installed here"):
        vllm_server("models/tiny-base", contract).__enter__()
