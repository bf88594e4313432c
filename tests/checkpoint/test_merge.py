"""Merged adapters: the base and the adapter's products, and nothing else."""

import json
import re

import pytest
import torch
from checkpoint_makers import ADAPTER, BASE
from safetensors.torch import load_file, save_file

from cookbook.checkpoint import CheckpointError
from cookbook.checkpoint.__main__ import main
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.verify import verify


def adapter(folder, shift="", seed=0, learns=("q_proj.weight", "v_proj.weight")):
    """Write a random adapter as the engine does, names as published; returns its deltas by tensor."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    tensors, deltas = {}, {}
    for name, weight in load_file(BASE / "model.safetensors").items():
        if name.endswith(learns):
            a, b = torch.randn(4, weight.shape[1], generator=draw), torch.randn(weight.shape[0], 4, generator=draw)
            stem = f"base_model.model.{shift}{name.removesuffix('.weight')}"
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            deltas[name] = 8.0 / 4 * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return deltas


def test_a_merged_adapter_is_the_base_and_its_products(tmp_path):
    deltas = adapter(tmp_path / "adapter")
    assert len(deltas) == 8
    out = merge(tmp_path / "adapter", tmp_path / "out", dtype=torch.float32)
    before, after = load_file(BASE / "model.safetensors"), load_file(out / "00000.safetensors")
    assert before.keys() == after.keys()
    for name, old in before.items():
        torch.testing.assert_close(after[name], old.float() + deltas.get(name, 0))
    found = verify(out, BASE)
    assert found.ok and "8 of 92 tensors differ" in found["base"].found
    with pytest.raises(CheckpointError, match="not empty"):
        merge(tmp_path / "adapter", out)


def test_a_beginning_that_peft_would_give_the_base_is_left_out(tmp_path):
    """The engine's table knows the key, and its language models do not; peft would rewrite the base by it."""
    deltas = adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(ADAPTER | {"init_lora_weights": "pissa"}))
    after = load_file(merge(tmp_path / "adapter", tmp_path / "out", dtype=torch.float32) / "00000.safetensors")
    for name, old in load_file(BASE / "model.safetensors").items():
        torch.testing.assert_close(after[name], old.float() + deltas.get(name, 0))


def test_an_adapter_of_all_layers_of_the_language_model_is_merged(tmp_path):
    """As the shipped files train it: the engine takes a target for a part of the names."""
    deltas = adapter(tmp_path / "adapter", learns="_proj.weight")
    deltas = {name: delta for name, delta in deltas.items() if name.startswith("model.layers.")}
    tensors = load_file(file := tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if ".model.layers." in name}, file)
    settings = ADAPTER | {"target_modules": ["model.layers"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    out = merge(tmp_path / "adapter", tmp_path / "out", dtype=torch.float32)
    before, after = load_file(BASE / "model.safetensors"), load_file(out / "00000.safetensors")
    assert len(deltas) == 4 * 7
    for name, old in before.items():
        torch.testing.assert_close(after[name], old.float() + deltas.get(name, 0))


def test_an_adapter_of_another_model_is_refused(tmp_path, capsys):
    adapter(tmp_path / "adapter", shift="other.")
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 2
    assert "do not fit" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no adapter to merge"):
        merge(BASE, tmp_path / "out")


def damaged(folder, change=lambda tensors: None, **settings):
    adapter(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | settings))


def taller(tensors):
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = torch.zeros(9, tensors[name].shape[1])


FIRST = "base_model.model.model.layers.0.self_attn.{}_proj.lora_{}.weight"
WRONG = {
    "another rank": ({"r": 8}, lambda tensors: None, "does not fit models/tiny-base.*size mismatch"),
    "another shape": ({}, taller, "size mismatch"),
    "a tensor too many": ({}, lambda t: t.update({FIRST.format("o", "A"): torch.zeros(4, 192)}), "1 of its .*o_proj"),
    "a tensor too few": ({}, lambda t: t.pop(FIRST.format("q", "B")), "1 of its tensors are missing.*q_proj"),
    "not finite": ({}, lambda t: t[FIRST.format("q", "B")].fill_(float("inf")), "NaN or infinity"),
    "a base that moved": ({"base_model_name_or_path": "/nowhere/base"}, lambda t: None, "not there.*--base FOLDER"),
    "no base": ({"base_model_name_or_path": None}, lambda t: None, "names no base.*--base FOLDER"),
    "no rank": ({"r": "four"}, lambda t: None, "does not fit"),
}


@pytest.mark.fault("local engine")
@pytest.mark.parametrize("settings, change, words", WRONG.values(), ids=WRONG)
def test_an_adapter_that_cannot_be_used_whole_is_refused_in_one_line(tmp_path, settings, change, words, capsys):
    damaged(tmp_path / "adapter", change, **settings)
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line) and str(tmp_path / "adapter") in line
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("local engine")
def test_an_adapter_in_a_pickle_or_cut_off_is_not_read(tmp_path):
    adapter(tmp_path / "adapter")
    shard = tmp_path / "adapter" / "adapter_model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut off"):
        merge(tmp_path / "adapter", tmp_path / "out")
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"no \*.safetensors"):
        merge(tmp_path / "adapter", tmp_path / "out")


@pytest.mark.fault("local engine")
def test_a_base_that_moved_is_named_on_the_command_line(tmp_path):
    damaged(tmp_path / "adapter", base_model_name_or_path="/nowhere/base")
    words = ["merge", str(tmp_path / "adapter"), str(tmp_path / "out"), "--base", str(BASE)]
    assert main(words) == 0
