"""Verify: a whole checkpoint has no error, and each way of damaging one is told by its name."""

import json
import shutil

import pytest
import torch
from checkpoint_makers import ADAPTER, BASE, make
from safetensors.torch import load_file, save_file

from cookbook import checkpoint
from cookbook.checkpoint import INDEX
from cookbook.checkpoint.__main__ import main
from cookbook.checkpoint.verify import verify, what_is_missing
from cookbook.data.contract import Contract
from cookbook.runs import ROOT


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A trained checkpoint: two shards, an index, a contract, every third tensor changed. Not to be touched."""
    folder = tmp_path_factory.mktemp("whole") / "run" / "safetensors" / "step_4"
    shutil.copytree(BASE, folder)
    (folder / "model.safetensors").unlink()
    weights = load_file(BASE / "model.safetensors")
    names = sorted(weights)
    for name in names[::3]:
        weights[name] = (weights[name].float() * 1.5).to(weights[name].dtype)
    parts = {"00000.safetensors": names[:50], "00001.safetensors": names[50:]}
    for file, part in parts.items():
        save_file({n: weights[n] for n in part}, folder / file, metadata={"format": "pt"})
    index = {n: file for file, part in parts.items() for n in part}
    size = sum(t.numel() * t.element_size() for t in weights.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": index}))
    shutil.copyfile(ROOT / "configs/prompts/road.yaml", folder / "contract.yaml")
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "run" / "safetensors" / "step_4")


def errors(folder, base=BASE) -> dict[str, str]:
    return {check.name: check.found for check in verify(folder, base).checks if check.status == "error"}


def rewrite(folder, change, file="00000.safetensors"):
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})


def test_a_whole_checkpoint_has_no_error(whole):
    found = verify(whole.parents[1], BASE)  # the run folder stands for its last export
    assert found.ok and not [c for c in found.checks if c.status != "ok"], found
    assert "31 of 92 tensors differ" in found["base"].found and "by 0.5 of its norm" in found["base"].found
    assert "2, with 92 tensors" in found["shards"].found
    assert found["contract"].found == Contract.load(whole / "contract.yaml").hash


def test_a_missing_shard(copy):
    (copy / "00001.safetensors").unlink()
    found = errors(copy)
    assert "00001.safetensors, not there" in found["shards"]
    assert "loads" in found and "base" not in found


def test_a_shard_that_was_cut_off(copy):
    file = copy / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    found = errors(copy)
    assert "00001.safetensors cannot be read, was it cut off?" in found["shards"] and "loads" in found
    assert found.keys() == {"shards", "loads"}


def test_a_tensor_in_another_shard_than_the_index_says(copy):
    index = json.loads((copy / INDEX).read_text())
    name = next(n for n, file in index["weight_map"].items() if file == "00000.safetensors")
    index["weight_map"][name] = "00001.safetensors"
    (copy / INDEX).write_text(json.dumps(index))
    assert f"{name} not in the shard" in errors(copy)["shards"]


def test_a_stray_file_that_would_be_read_instead(copy):
    shutil.copyfile(BASE / "model.safetensors", copy / "model.safetensors")
    assert "model.safetensors is not in the index, and is read instead" in errors(copy)["shards"]


def test_shards_without_an_index(copy):
    (copy / INDEX).unlink()
    assert "without it only model.safetensors is read" in errors(copy)["shards"]


def test_a_size_that_is_not_that_of_the_files_is_a_warning(copy):
    index = json.loads((copy / INDEX).read_text())
    index["metadata"]["total_size"] += 10**6
    (copy / INDEX).write_text(json.dumps(index))
    assert verify(copy, BASE)["size"].status == "warning"
    index["metadata"]["total_size"] = "big"
    (copy / INDEX).write_text(json.dumps(index))
    assert "but the index says big" in verify(copy, BASE)["size"].found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite(copy, value):
    rewrite(copy, lambda w: w["model.norm.weight"].__setitem__(3, value), "00000.safetensors")
    assert "model.norm.weight" in errors(copy)["finite"]


def rename(weights, old, new):
    for name in [n for n in weights if n.startswith(old)]:
        weights[new + name.removeprefix(old)] = weights.pop(name)


def single(copy):
    """One file without an index, as after save_pretrained."""
    weights = load_file(copy / "00000.safetensors") | load_file(copy / "00001.safetensors")
    for name in ("00000.safetensors", "00001.safetensors", INDEX):
        (copy / name).unlink()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy, "model.safetensors"


def test_the_names_of_the_look_ahead_defect_are_told_by_name(copy):
    folder, file = single(copy)
    rewrite(folder, lambda w: rename(w, "model.", r"model(?!\.(language_model|visual))."), file)
    found = errors(folder)
    assert "reverse_hf_checkpoint_mapping" in found["names"] and "cosmos-rl 0.4.7" in found["names"]
    assert "missing" in found["loads"]


def test_nested_names_load_but_are_a_warning(copy):
    folder, file = single(copy)
    rewrite(
        folder, lambda w: (rename(w, "model.", "model.language_model."), rename(w, "visual.", "model.visual.")), file
    )
    found = verify(folder)
    assert found["names"].status == "warning" and found["loads"].status == "ok"


def test_names_of_another_model(copy):
    folder, file = single(copy)
    rewrite(folder, lambda w: rename(w, "visual.", "vision_tower."), file)
    found = errors(folder)
    assert "vision_tower." in found["names"] and "missing" in found["loads"] and "unexpected" in found["loads"]


def test_a_shape_that_is_not_that_of_the_configuration(copy):
    folder, file = single(copy)
    rewrite(folder, lambda w: w.__setitem__("model.norm.weight", torch.ones(7)), file)
    found = errors(folder)
    assert "1 of another shape: model.language_model.norm.weight" in found["loads"]
    assert "model.norm.weight" in found["base"]


def test_training_that_changed_nothing(tmp_path):
    found = errors(shutil.copytree(BASE, tmp_path / "same"))
    assert found.keys() == {"base"} and "training changed nothing" in found["base"]


def test_rounding_to_another_type_is_no_change(tmp_path):
    wide = shutil.copytree(BASE, tmp_path / "wide")
    weights = load_file(BASE / "model.safetensors")
    save_file({n: t.float() + 1e-5 for n, t in weights.items()}, wide / "model.safetensors", {"format": "pt"})
    narrow = shutil.copytree(wide, tmp_path / "narrow")
    rewrite(narrow, lambda w: w.update({n: t.bfloat16() for n, t in w.items()}), "model.safetensors")
    assert "changed nothing" in errors(narrow, wide)["base"]
    assert verify(wide, BASE)["base"].status == "ok"


@pytest.mark.parametrize(
    ("file", "name"),
    [("tokenizer.json", "tokenizer"), ("preprocessor_config.json", "processor"), ("chat_template.jinja", "reads text"),
     ("config.json", "loads")],
)  # fmt: skip
def test_a_file_that_is_not_there(copy, file, name):
    (copy / file).unlink()
    assert name in errors(copy)


def test_without_a_contract_or_a_base_it_warns(copy):
    (copy / "contract.yaml").unlink()
    found = verify(copy)
    assert found.ok and {c.name for c in found.checks if c.status == "warning"} == {"contract", "base"}
    assert "nowhere/at-all is no checkpoint on this disk" in verify(copy, "nowhere/at-all")["base"].found
    (copy / "contract.yaml").write_text("system: [")
    assert not verify(copy).ok


def test_the_base_is_that_of_the_manifest_where_none_is_given(copy):
    (copy.parents[1] / "manifest.json").write_text(json.dumps({"start": "models/tiny-base"}))
    assert "31 of 92 tensors differ from models/tiny-base" in verify(copy)["base"].found
    for bad in ("{", "[1]", "null", '{"start": ["x"]}', '{"start": 3}'):
        (copy.parents[1] / "manifest.json").write_text(bad)
        assert verify(copy)["base"].status == "warning"


def test_a_folder_that_is_none_an_empty_one_and_an_adapter_get_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "there is no *.safetensors" in errors(tmp_path / "empty")["shards"]
    (told,) = errors(tmp_path / "nowhere").values()
    assert told.startswith(f"{tmp_path}/nowhere: there is no such folder")
    make(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert "LoRA adapter" in errors(tmp_path / "adapter")["folder"]


def test_the_command_verifies(whole, tmp_path, capsys):
    assert main(["verify", str(whole), "--base", str(BASE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and {"shards", "names", "finite", "base", "loads", "contract"} <= {
        c["name"] for c in found["checks"]
    }
    assert main(["verify", str(BASE), "--base", str(BASE)]) == 1
    assert "error    base" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


def test_what_this_project_exports_is_whole(tmp_path, stock, encoder):
    with torch.no_grad():
        stock.model.language_model.norm.weight.mul_(2)
    folder = checkpoint.export(stock, encoder, tmp_path, 3)
    found = verify(tmp_path, BASE)
    assert found.folder == str(folder) and not [c for c in found.checks if c.status != "ok"], found
    assert "1 of 92 tensors differ" in found["base"].found


def test_a_shard_that_the_index_names_must_be_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "00000.safetensors", "b": "00003.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert what_is_missing(tmp_path) == "there is no *.safetensors"
    save_file({"a": torch.zeros(2)}, tmp_path / "00000.safetensors")
    assert what_is_missing(tmp_path) == "the index names 00003.safetensors, not there"


def test_an_adapter_is_whole_without_an_index(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert what_is_missing(tmp_path) == "there is no *.safetensors"
    shard = tmp_path / "adapter_model.safetensors"
    save_file({"a": torch.zeros(2)}, shard)
    assert what_is_missing(tmp_path) == ""
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "adapter_model.safetensors cannot be read" in what_is_missing(tmp_path)
