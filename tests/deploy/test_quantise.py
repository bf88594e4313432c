"""Quantised checkpoints: what changes and what stays, that they load and answer, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

from cookbook.checkpoint import CheckpointError, find
from cookbook.checkpoint.lineage import lineage
from cookbook.data.contract import ContractError
from cookbook.deploy import quantise as ours
from cookbook.deploy.quantise import FORMS, MATRIX, calibration, form_of, open_form, quantise, tensors_of, weight_bytes
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


def test_calibration_looks_at_training_clips_alone(samples, contract, tmp_path):
    file = calibration(samples, contract, tmp_path / "c.jsonl", count=5)
    turns = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(turns) == 5 and {turn["role"] for turn in turns[0]} == {"system", "user", "assistant"}
    shown = {part["video"] for found in turns for turn in found for part in turn["content"] if part["type"] == "video"}
    assert shown <= {str(sample.video) for sample in samples} and len(shown) > 1


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
    assert all(f'"{scheme}"' in words for scheme in ours.BY_LLM_COMPRESSOR.values())
    assert all(f'"{kept.removesuffix(".*")}' in words for kept in ours.KEPT)
