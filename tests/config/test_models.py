"""The published models that lint, plan and doctor know by name have the shapes and names that transformers builds."""

import json
from dataclasses import replace

import pytest

from cookbook.config import Config, lint, models, plan
from cookbook.config.models import EIGHT, SEVEN, SIZES, TWO, family_of, published_names, shape_of
from cookbook.config.patterns import hits, parameter_names
from cookbook.config.rules import View, gpus_needed
from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL
from cookbook.data.contract import Contract
from cookbook.runs import ROOT

REASON2 = sorted((ROOT / "configs/reason2").glob("*.toml"))
# hidden and inner width of the language model, of the vision tower, and the layers of it that are read
SHAPES = {TWO: (2048, 6144, 1024, 4096, [5, 11, 17]), EIGHT: (4096, 12288, 1152, 4304, [8, 16, 24])}
START = "policy.model_name_or_path"


@pytest.mark.parametrize("model", SHAPES, ids=["2B", "8B"])
def test_names_and_parameters_are_those_that_transformers_builds(model):
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    width, inner, vision, vision_inner, read = SHAPES[model]
    text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": model.layers, "head_dim": 128,
            "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads, "vocab_size": 151_936,
            "tie_word_embeddings": model.tied,
            "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]}}  # fmt: skip
    seen = {"depth": model.blocks, "hidden_size": vision, "intermediate_size": vision_inner,
            "out_hidden_size": width, "deepstack_visual_indexes": read}  # fmt: skip
    with torch.device("meta"):
        made = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=seen, tie_word_embeddings=model.tied)
        )
    if model.tied:
        made.tie_weights()
    named = dict(made.named_parameters())
    assert set(published_names(model)) == named.keys()
    assert sum(p.numel() for p in named.values()) == pytest.approx(model.parameters, rel=1e-3)
    assert model.cache_bytes == model.layers * model.kv_heads * 512


def test_a_family_is_known_by_name_or_folder(qwen3):
    assert family_of("nvidia/Cosmos-Reason2-8B") is QWEN3_VL is family_of(str(qwen3))
    assert family_of("models/tiny-base") is QWEN2_5_VL is family_of("somebody/else")
    assert set(parameter_names(str(qwen3))) >= {"model.visual.pos_embed.weight", "model.language_model.norm.weight"}


def config_json(model, nested):
    text = {key: getattr(model, name) for key, name in SIZES.items()}
    kind, tower = model.family.model_type, {"depth": model.blocks}
    return {"model_type": kind, "vision_config": tower} | ({"text_config": text} if nested else text)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("model", [SEVEN, TWO, EIGHT], ids=["7B", "2B", "8B"])
def test_a_published_model_is_known_in_any_folder(tmp_path, model, nested):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_json(model, nested)))
    assert shape_of(str(tmp_path)) is model and set(parameter_names(str(tmp_path))) == set(published_names(model))
    config = Config.load("configs/sft_1gpu_lora.toml").edit({START: str(tmp_path)})
    known = plan(config, gpus=1, gpu_gib=80, samples=100, tokens=2000)
    assert f"{tmp_path} has {model.parameters / 1e9:.2f} B parameters, as Cosmos-Reason" in known.assumptions[0]
    for odd in (config_json(replace(model, width=2560), nested), {"text_config": []}, {"vision_config": 3}):
        file.write_text(json.dumps(odd))
        assert shape_of(str(tmp_path)) is None


def test_a_jobs_sft_that_is_to_come_is_known_by_what_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "JOBS", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/sft.toml").write_text((ROOT / "configs/reason2/8b_lora_1gpu.toml").read_text())
    rl = Config.load("configs/reason2/8b_rl_lora_1gpu.toml")
    told = [plan(c, gpus=1, gpu_gib=80, samples=100, tokens=1400) for c in (rl, rl.edit({START: "runs/mine/sft"}))]
    assert told[0].assumptions[1:] == told[1].assumptions[1:] and told[0].peak_gib == told[1].peak_gib
    assert "runs/mine/sft has 8.77 B parameters, as Cosmos-Reason2-8B" in told[1].assumptions
    assert not lint(rl.edit({START: "runs/mine/sft"})) and family_of("runs/mine/sft") is QWEN3_VL
    assert family_of("runs/other/sft") is QWEN2_5_VL
    (tmp_path / "mine/sft.toml").write_text("[policy")
    assert shape_of("runs/mine/sft") is None
    unknown = plan(rl.edit({START: "runs/other/sft", "train.compile": False}), gpus=1, gpu_gib=80, samples=9, tokens=9)
    assert "is neither known nor on this disk" in unknown.assumptions[0]


@pytest.mark.parametrize("path", REASON2, ids=lambda path: path.stem)
def test_a_shipped_file_of_reason2_is_clean_fits_and_says_whether_it_was_run(path):
    config = Config.load(path)
    gpus = sum(gpus_needed(View(config)))
    assert lint(config, gpus=gpus, tokens=1400 if config.kind == "grpo" else 3800) == []
    assert f"{gpus}gpu" in path.stem and ("Not run" in path.read_text()) != ("Measured" in path.read_text())
    tokens = 1400 if config.kind == "grpo" else 3800
    found = plan(config, gpus=gpus, gpu_gib=24 if "2b_lora" in path.stem else 80, samples=10_000, tokens=tokens)
    assert found.fits and path.stem.startswith(("8b_lora", "8b_rl_lora")) != any(
        "not measured for this model" in line for line in found.assumptions
    )
    contract = Contract.load(ROOT / config.table("custom")["contract"])
    assert contract.vision.fps == 4 and contract.vision.min_pixels % 32**2 == 0
    assert contract.vision.total_pixels // 32**2 + 300 < config["policy.model_max_length"]


def test_what_the_engine_cannot_do_with_it_is_refused():
    config = Config.load("configs/reason2/8b_sft_4gpu.toml")

    def told(changes):
        return {f.key for f in lint(config.edit(changes)) if f.level == "error"}

    assert not told({"train.compile": True}) and not told({"train.compile": True, "train.force_use_hf": True})
    split = {"policy.parallelism.tp_size": 2, "policy.parallelism.dp_shard_size": 2}
    assert told(split) == {"train.compile"} and not told(split | {"train.compile": False})
    assert told({"policy.parallelism.cp_size": 2, "policy.parallelism.dp_shard_size": 2}) == {
        "policy.parallelism.cp_size"
    }
    assert told({START: "nvidia/Cosmos3-Nano"}) == {START}
    assert not told({START: "nvidia/Cosmos-Reason1-7B"})
    assert told({START: "nvidia/Cosmos-Reason1-7B", "train.force_use_hf": True}) == {"train.compile"}


def test_a_pattern_is_looked_for_in_its_names():
    config = Config.load("configs/reason2/8b_sft_4gpu.toml").edit({"policy.freeze_pattern": [r"^model\.visual\."]})
    assert not lint(config) and len(hits(config)[0][2]) == len([n for n in published_names(EIGHT) if ".visual." in n])
    assert [f.key for f in lint(config.edit({"policy.freeze_pattern": [r"^visual\."]}))] == ["policy.freeze_pattern"]
