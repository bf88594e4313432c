"""On a GPU: random weights of 7B's shape, in bfloat16, int8 and float8: memory, and tokens a second.

python -m pytest -m gpu -s tests/deploy/test_gpu_deploy.py
"""

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from cookbook.deploy.quantise import FORMS, quantise, weight_bytes
from cookbook.runs import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPE = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
         "num_key_value_heads": 4, "vocab_size": 152_064}  # fmt: skip
TOKENS, ROWS = 32, 8


@pytest.fixture(scope="module")
def seven(tmp_path_factory, contract):
    """A checkpoint of 7B's language model with random weights, the tiny base's vision tower widened to it."""
    from cookbook.checkpoint.store import CONTRACT, write_index

    folder = tmp_path_factory.mktemp("seven")
    base = ROOT / "models/tiny-base"
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    layers = SHAPE["num_hidden_layers"]
    config["text_config"] |= SHAPE | {"layer_types": ["full_attention"] * layers, "tie_word_embeddings": False}
    config["text_config"]["rope_scaling"]["mrope_section"] = [16, 24, 24]
    config["vision_config"]["out_hidden_size"] = SHAPE["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        torch.set_default_dtype(torch.float32)
    weights = {name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.cpu()
               for name, tensor in model.state_dict().items()}  # fmt: skip
    del model
    torch.cuda.empty_cache()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_index(folder)
    contract.save(folder / CONTRACT)
    return folder


def measure(folder) -> tuple[float, float, float]:
    """Returns GiB of weights, GiB at most, and tokens a second of a batch of ROWS."""
    from cookbook.deploy.quantise import open_form

    torch.cuda.empty_cache()
    model, _ = open_form(folder)
    torch.cuda.reset_peak_memory_stats()
    ids = torch.randint(0, 600, (ROWS, 128), device="cuda")
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "min_new_tokens": TOKENS}
    model.generate(ids, max_new_tokens=TOKENS, **how)
    torch.cuda.synchronize()
    began = time.perf_counter()
    model.generate(ids, max_new_tokens=TOKENS, **how)
    torch.cuda.synchronize()
    speed = ROWS * TOKENS / (time.perf_counter() - began)
    return weight_bytes(model) / 2**30, torch.cuda.max_memory_allocated() / 2**30, speed


def test_seven_billion_weights_take_half_the_memory(seven, capsys):
    found = {}
    for form in ("bfloat16", *FORMS):
        found[form] = measure(seven if form == "bfloat16" else quantise(seven, seven.parent / form, form))
        with capsys.disabled():
            weights, peak, speed = found[form]
            print(f"\n{form:9} weights {weights:5.1f} GiB, at most {peak:5.1f} GiB, {speed:6.0f} tokens/s", end="")
    for form in FORMS:
        assert found[form][0] < 0.65 * found["bfloat16"][0]
