"""Merged adapters: the base and the adapter's products, and nothing else."""

import json

import pytest
import torch
from checkpoint_makers import ADAPTER, BASE
from safetensors.torch import load_file, save_file

from cookbook.checkpoint import CheckpointError
from cookbook.checkpoint.__main__ import main
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.verify import verify


def adapter(folder, shift="", seed=0):
    """Write a random adapter as the engine does, names as published; returns its deltas by tensor."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    tensors, deltas = {}, {}
    for name, weight in load_file(BASE / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
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


def test_an_adapter_of_another_model_is_refused(tmp_path, capsys):
    adapter(tmp_path / "adapter", shift="other.")
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 1
    assert "do not fit" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no adapter to merge"):
        merge(BASE, tmp_path / "out")
