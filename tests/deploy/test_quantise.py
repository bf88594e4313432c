"""Quantised checkpoints: what changes and what stays, that they load and answer, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cookbook.checkpoint import CheckpointError, find
from cookbook.checkpoint.lineage import lineage
from cookbook.data.contract import ContractError
from cookbook.deploy import quantise as ours
from cookbook.deploy.quantise import (
    BY_LLM_COMPRESSOR,
    FORMS,
    MATRIX,
    calibration,
    form_of,
    open_form,
    quantise,
    tensors_of,
    weight_bytes,
)
from cookbook.evaluation.predict import predict, weights_hash
from cookbook.runs import ROOT

both = pytest.mark.parametrize("form", FORMS)


@both
def test_matrices_of_the_language_model_change_by_half_a_step_and_nothing_else_does(form, full, forms):
    before, (model, _) = tensors_of(full), open_form(forms[form])
    after, weights = tensors_of(forms[form]), model.state_dict()
    matrices = {name for name in before if MATRIX.fullmatch(name)}
    assert len(matrices) == 4 * 7 and not [name for name in matrices if "visual" in name]
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - matrices)
    for name in matrices:
        old, row = before[name].float(), before[name].float().abs().amax(1, keepdim=True)
        new = weights["model.language_model" + name.removeprefix("model")].dequantize().float()
        # int8: half of a step, a quarter more at a row's end, as its scale is rounded; float8: three bits, or the least
        step = row / 127.5 * 0.76 if form == "int8" else torch.maximum(old.abs() / 16, row / 448 * 2**-10) * 1.01
        assert ((new - old).abs() <= step).all(), name


def test_the_other_family_of_models_is_quantised_too(qwen3, contract3, tmp_path):
    before, (model, _) = tensors_of(qwen3), open_form(quantise(qwen3, tmp_path / "int8"), contract3)
    matrices = [name for name in before if MATRIX.fullmatch(name)]
    assert len(matrices) == 7 * model.config.text_config.num_hidden_layers
    for name in matrices:
        new, row = model.state_dict()[name].dequantize(), before[name].abs().amax(1, keepdim=True)
        assert ((new - before[name]).abs() <= row / 127.5 * 0.76).all()


@both
def test_files_and_memory_shrink_and_hold_no_pickle(form, full, forms):
    size = {place: sum(f.stat().st_size for f in place.glob("*.safetensors")) for place in (full, forms[form])}
    assert size[forms[form]] < 0.75 * size[full]
    assert weight_bytes(open_form(forms[form])[0]) < 0.6 * weight_bytes(open_form(full)[0])
    assert {f.suffix for f in forms[form].iterdir()} <= {".safetensors", ".json", ".jinja", ".txt", ".yaml"}


def test_int8_lies_in_words_as_compressed_tensors_packs_it(full, forms):
    name = "model.layers.0.mlp.up_proj.weight"
    stored = tensors_of(forms["int8"])
    words, scale = stored[f"{name}_packed"].to(torch.int64), stored[f"{name}_scale"].float()
    parts = torch.stack([(words >> 8 * place) % 256 - 128 for place in range(4)], dim=-1).flatten(1)
    assert list(parts.shape) == stored[f"{name}_shape"].tolist()
    assert ((parts * scale - tensors_of(full)[name].float()).abs() <= scale * 0.76).all()


@both
def test_it_answers_nearly_as_the_full_one_and_is_told_apart(form, full, forms, samples):
    said = {}
    for place in (full, forms[form]):
        model, encoder = open_form(place)
        said[place] = predict(model, encoder, samples[:8], "x", limit=16), weights_hash(model)
    (before, one), (after, other) = said.values()
    assert one != other and before[0]["contract"] == after[0]["contract"]
    assert sum(a["output"][:12] == b["output"][:12] for a, b in zip(before, after)) >= 6


@both
def test_it_knows_where_it_comes_from_and_cannot_be_trained(form, full, forms):
    assert [stage.kind for stage in lineage(forms[form])] == ["base", form]
    assert lineage(forms[form])[0].place == str(full)
    with pytest.raises(CheckpointError, match="quantiz"):
        find(forms[form])
    assert form_of(forms[form])[1] is FORMS[form] and form_of(full)[1] is None


def test_calibration_looks_at_training_clips_alone_as_training_does(samples, contract, encoder, full, tmp_path):
    (tmp_path / "clips.incomplete-0").mkdir()  # of a call that was stopped
    files = sorted(calibration(samples, contract, full, tmp_path / "clips", count=5).iterdir())
    chosen = samples[:: len(samples) // 5][:5]
    assert len(files) == 5 and len({sample.video for sample in chosen}) > 1
    for file, sample in zip(files, chosen):
        kept, meant = load_file(file), encoder.training_batch([sample])
        assert kept.keys() == meant.keys() - {"labels"}  # with labels it would make a loss of them
        assert all(torch.equal(part, meant[name].to(part.dtype)) for name, part in kept.items())


# ---- what llm-compressor makes ---------------------------------------------------------------------------------------


def four_bits(codes):
    """Four bits each, side by side in bytes, the first in the lower half."""
    return codes[:, ::2] | codes[:, 1::2] << 4


def w4a16(weight):
    """As compressed-tensors keeps it: a scale each 64 weights, eight numbers to a word, without a sign."""
    groups = weight.unflatten(1, (-1, 64))
    scale = (groups.abs().amax(2) / 7.5).bfloat16()
    numbers = (groups / scale.float().unsqueeze(2)).round().clamp(-8, 7).flatten(1)
    packed = four_bits((numbers + 8).to(torch.uint8)).view(torch.int32)
    return {"packed": packed, "scale": scale, "shape": torch.tensor(weight.shape)}


def nvfp4a16(weight):
    """As compressed-tensors keeps it: a scale of float8 each 16 weights, and one for the matrix; two to a byte."""
    sizes, groups, whole = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]), weight.unflatten(1, (-1, 16)), 448 * 6
    scale = (groups.abs().amax(2) / 6 * (whole / weight.abs().max())).to(torch.float8_e4m3fn)
    shrunk = groups / (scale.float() * weight.abs().max() / whole).unsqueeze(2)
    codes = (shrunk.abs().unsqueeze(-1) - sizes).abs().argmin(-1) + 8 * (shrunk < 0)
    return {"packed": four_bits(codes.flatten(1).to(torch.uint8)), "scale": scale,
            "global_scale": (whole / weight.abs().max()).reshape(1)}  # fmt: skip


@pytest.mark.parametrize(("form", "pack", "lost"), [("w4a16", w4a16, 1 / 12), ("nvfp4a16", nvfp4a16, 1 / 5)])
def test_four_bits_are_read_as_compressed_tensors_lays_them(form, pack, lost, full, tmp_path):
    shutil.copytree(full, small := tmp_path / form)
    kept = load_file(small / "model.safetensors")
    for name in filter(MATRIX.fullmatch, [*kept]):
        kept |= {f"{name}_{end}": part for end, part in pack(kept.pop(name).float()).items()}
    save_file(kept, small / "model.safetensors", {"format": "pt"})
    told_by_others(small, BY_LLM_COMPRESSOR[form].settings)
    assert form_of(small)[1] is BY_LLM_COMPRESSOR[form]
    weights = open_form(small)[0].state_dict()
    for name, old in ((name, tensor) for name, tensor in tensors_of(full).items() if MATRIX.fullmatch(name)):
        new = weights["model.language_model" + name.removeprefix("model")]
        assert ((new - old.float()).abs() <= lost * old.float().abs().amax(1, keepdim=True)).all(), name


def told_by_others(folder, settings):
    """Write config.json as llm-compressor does: with its version, and keys that decide nothing."""
    group = settings["config_groups"]["group_0"]
    weights = group["weights"] | {"group_size": 64, "actorder": "static", "observer": "memoryless_minmax"}
    said = settings | {"config_groups": {"group_0": group | {"weights": weights}}, "version": "0.19.0"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))


def test_fp8_dynamic_rounds_what_goes_into_a_matrix(forms, tmp_path):
    shutil.copytree(forms["float8"], small := tmp_path / "fp8")
    told_by_others(small, BY_LLM_COMPRESSOR["fp8-dynamic"].settings)
    plain, rounding = (
        open_form(place)[0].get_submodule("model.language_model.layers.0.mlp.up_proj")
        for place in (forms["float8"], small)
    )
    given = torch.randn(3, 192) * torch.tensor([[1.0], [100.0], [0.01]])
    scale = given.abs().amax(1, keepdim=True) / 448
    rounded = (given / scale).to(torch.float8_e4m3fn).float() * scale
    assert torch.allclose(rounding(given), plain(rounded)) and not torch.allclose(rounding(given), plain(given))


# ---- what is refused, in one line ------------------------------------------------------------------------------------


def damaged(folder, what):
    shard = next(folder.glob("*.safetensors"))
    if what == "cut off":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif what == "adapter":
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nowhere/base"}')
    elif what == "other form":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("what", "said"),
    [("cut off", "was it cut off"), ("adapter", "is a LoRA adapter of nowhere/base"), ("other form", "quantiz")],
)
def test_a_checkpoint_that_does_not_verify_is_one_line(what, said, full, tmp_path):
    damaged(shutil.copytree(full, tmp_path / "bad"), what)
    with pytest.raises(CheckpointError, match=said) as error:
        quantise(tmp_path / "bad", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.fault("disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(full, tmp_path, monkeypatch):
    def full_disk(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(ours, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot be written; make room.*No space left on device"):
        quantise(full, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_stands_in_the_way_stays(full, forms, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"outcome": "finished"}')
    with pytest.raises(CheckpointError, match="holds something else"):
        quantise(full, tmp_path / "run")
    with pytest.raises(ValueError, match="there are int8, float8"):
        quantise(full, tmp_path / "x", "int2")
    damaged(shutil.copytree(forms["int8"], tmp_path / "awq"), "other form")
    with pytest.raises(CheckpointError, match="in another form"):
        open_form(tmp_path / "awq")


@pytest.mark.fault("inputs")
def test_another_contract_than_the_checkpoints_is_one_line(forms, contract):
    other = replace(contract, vision=replace(contract.vision, fps=1))
    with pytest.raises(ContractError, match=r"fps: 2 there, 1 here") as error:
        open_form(forms["int8"], other)
    assert "\n" not in str(error.value)


def test_the_shipped_script_takes_what_the_command_prints():
    words = (ROOT / ours.SCRIPT).read_text()
    assert all(f'"{form.upper().replace("-", "_")}"' in words for form in BY_LLM_COMPRESSOR)
    assert all(f'"{kept}"' in words for kept in ours.KEPT)
