"""Checkpoints: what a path stands for, what is wrong with a damaged one, where it came from, and merged adapters."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cookbook import checkpoint
from cookbook.checkpoint import INDEX, CheckpointError, find, last_complete
from cookbook.checkpoint.lineage import lineage, tree
from cookbook.checkpoint.merge import merge
from cookbook.checkpoint.verify import main, verify
from cookbook.data.contract import Contract
from cookbook.runs import ROOT

BASE = ROOT / "models" / "tiny-base"
ADAPTER = {  # as cosmos-rl 0.4.7 writes it: null where peft wants its default, and keys that peft does not know
    "r": 4, "lora_names": ["default"], "lora_path": None, "lora_alpha": 8.0, "lora_dropout": 0.0,
    "target_modules": ["q_proj", "v_proj"], "primary_adapter": None, "use_rslora": False, "modules_to_save": None,
    "alpha_pattern": None, "r_pattern": None, "init_lora_weights": True,
    "base_model_name_or_path": str(BASE), "peft_type": "LORA",
}  # fmt: skip


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


# ---- find -------------------------------------------------------------------------------------------------------


def make(*folders):
    """Make empty checkpoints: with the files that are asked for, without content."""
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "00000.safetensors"):
            (folder / name).write_text("{}")


def test_the_highest_step_counts_and_final_is_the_last(tmp_path):
    exports = tmp_path / "safetensors"
    make(exports / "step_9", exports / "step_10")
    (exports / "step_11.incomplete-3fa9").mkdir()
    (exports / "step_x").mkdir()
    for path in (tmp_path, exports, exports / "step_10"):
        assert find(path) == exports / "step_10"
    make(exports / "final")
    assert find(tmp_path) == exports / "final"
    assert find(exports / "step_9") == exports / "step_9"


def test_of_folders_by_time_the_newest_with_an_export_counts(tmp_path, caplog):
    old, new, newest = (tmp_path / f"2025051606133{i}" for i in range(3))
    make(old / "safetensors" / "step_50", new / "safetensors" / "step_6")
    (tmp_path / "best").mkdir()
    assert find(tmp_path) == new / "safetensors" / "step_6"
    assert not caplog.messages
    newest.mkdir()  # crashed before its first export: an older one is taken, and it is said
    assert find(tmp_path) == new / "safetensors" / "step_6"
    assert newest.name in caplog.text and new.name in caplog.text


def test_best_is_followed_as_the_link_that_the_engine_makes(tmp_path):
    make(tmp_path / "safetensors" / "step_6", tmp_path / "safetensors" / "step_9")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "safetensors").symlink_to(tmp_path / "safetensors" / "step_6")
    assert find(tmp_path / "best" / "safetensors").resolve() == tmp_path / "safetensors" / "step_6"
    assert find(tmp_path) == tmp_path / "safetensors" / "step_9"


def test_what_is_no_checkpoint_says_what_it_is(tmp_path):
    half = tmp_path / "a" / "safetensors" / "step_6.incomplete-3fa9"
    half.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="half written"):
        find(tmp_path / "a")
    state = tmp_path / "b" / "checkpoints" / "step_6" / "policy"
    state.mkdir(parents=True)
    (state / "cosmos_config").write_text("{}")
    with pytest.raises(CheckpointError, match="training state"):
        find(state)
    adapter = tmp_path / "c"
    make(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER))
    with pytest.raises(CheckpointError, match=f"LoRA adapter of {BASE}.*cookbook.checkpoint merge .*c OUT"):
        find(adapter)
    make(tmp_path / "d")
    (tmp_path / "d" / "00000.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        find(tmp_path / "d")
    with pytest.raises(CheckpointError, match=r"no such folder.*hf download"):
        find("nvidia/Cosmos-Reason1-7B")


def test_old_exports_go_and_half_written_ones_are_left_alone(tmp_path):
    exports = tmp_path / "safetensors"
    make(*(exports / f"step_{n}" for n in (8, 9, 10)))
    (exports / "step_11.incomplete-3fa9").mkdir()
    checkpoint.keep(tmp_path, -1)
    assert len(list(exports.iterdir())) == 4
    checkpoint.keep(tmp_path, 2)
    assert {p.name for p in exports.iterdir()} == {"step_9", "step_10", "step_11.incomplete-3fa9"}
    checkpoint.keep(tmp_path, 1, best=9)
    assert {p.name for p in exports.iterdir()} == {"step_9", "step_10", "step_11.incomplete-3fa9"}
    checkpoint.keep(tmp_path, 1)
    assert {p.name for p in exports.iterdir()} == {"step_10", "step_11.incomplete-3fa9"}


def state(folder, ranks, complete, shard=2, replicate=1):
    folder.mkdir(parents=True)
    sizes = {"dp_shard_size": shard, "tp_size": 1, "pp_size": 1, "cp_size": 1, "dp_replicate_size": replicate}
    (folder / "cosmos_config").write_text(json.dumps({"policy": {"parallelism": sizes}}))
    for rank in range(ranks):
        (folder / f"model_rank_{rank}.pth").write_text("")
    for rank in complete:
        (folder / f".rank_{rank}_complete").write_text("")


def test_the_last_complete_training_state_has_the_mark_of_every_rank(tmp_path):
    assert last_complete(tmp_path) is None
    steps = tmp_path / "checkpoints"
    state(steps / "step_20" / "policy", 2, (0, 1), replicate=2)  # replicas save nothing of their own
    state(steps / "step_100" / "policy", 2, (0,))  # rank 1 is still writing
    state(steps / "step_60" / "policy", 1, (0,))  # rank 1 has not begun
    state(steps / "step_80" / "policy", 2, (0, 1))
    (steps / "step_80" / "policy" / "cosmos_config").unlink()
    assert last_complete(tmp_path) == steps / "step_20" / "policy"
    later = tmp_path / "20250516061336" / "checkpoints" / "step_30" / "policy"
    state(later, 2, (0, 1))
    assert last_complete(tmp_path) == later


# ---- verify -----------------------------------------------------------------------------------------------------


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
    ("files", "name"),
    [(("tokenizer.json", "vocab.json"), "tokenizer"), (("preprocessor_config.json",), "processor"),
     (("chat_template.jinja",), "reads text"), (("config.json",), "loads")],
)  # fmt: skip
def test_a_file_that_is_not_there(copy, files, name):
    for file in files:
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
    (copy.parents[1] / "manifest.json").write_text("{")
    assert verify(copy)["base"].status == "warning"


def test_a_folder_that_is_none_an_empty_one_and_an_adapter_get_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "there is no *.safetensors" in errors(tmp_path / "empty")["shards"]
    assert errors(tmp_path / "nowhere") == {"folder": f"{tmp_path}/nowhere: there is no such folder"}
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
    assert main(["verify", str(tmp_path / "nowhere")]) == 1


def test_what_this_project_exports_is_whole(tmp_path, stock, encoder):
    with torch.no_grad():
        stock.model.language_model.norm.weight.mul_(2)
    folder = checkpoint.export(stock, encoder, tmp_path, 3)
    found = verify(tmp_path, BASE)
    assert found.folder == str(folder) and not [c for c in found.checks if c.status != "ok"], found
    assert "1 of 92 tensors differ" in found["base"].found


# ---- lineage ----------------------------------------------------------------------------------------------------


def run(folder, kind, start, step, **facts):
    make(folder / "safetensors" / f"step_{step}")
    told = {"start": str(start), "seed": 7, "commit": "4054350c6863ca94ccc0d8c0ab3ad67b87960078-dirty", **facts}
    (folder / "manifest.json").write_text(json.dumps(told))
    (folder / "config.toml").write_text(f'[train.train_policy]\ntype = "{kind}"\n')


def test_the_lineage_goes_from_the_base_to_the_last_step(tmp_path):
    sft, rl = tmp_path / "job" / "sft", tmp_path / "job" / "rl"
    run(sft, "sft", "models/tiny-base", 48, data="job/data", passport="87b0", contract="8368")
    run(rl, "grpo", sft, 12, contract="8368")
    steps = lineage(rl)
    assert [s.kind for s in steps] == ["base", "SFT", "RL"]
    assert [s.place for s in steps] == ["models/tiny-base", str(sft), str(rl)]
    known = {"export": "step_48", "data": "job/data", "passport": "87b0", "contract": "8368", "seed": "7"}
    assert known.items() <= steps[1].facts.items() and steps[1].facts["commit"] == "4054350c6863-dirty"
    assert steps[1].facts["config"] != steps[2].facts["config"]
    assert lineage(rl / "safetensors" / "step_12") == steps
    first, second, third = tree(steps).splitlines()
    assert first == "base: models/tiny-base" and second.startswith("└─ SFT: ") and third.startswith("   └─ RL: ")


def test_a_base_from_the_hub_is_named_and_a_circle_is_refused(tmp_path, capsys):
    run(tmp_path / "a", "sft", "nvidia/Cosmos-Reason1-7B", 1)
    assert [s.place for s in lineage(tmp_path / "a")] == ["nvidia/Cosmos-Reason1-7B", str(tmp_path / "a")]
    run(tmp_path / "b", "grpo", tmp_path / "b", 1)
    with pytest.raises(ValueError, match="back to itself"):
        lineage(tmp_path / "b")
    assert main(["lineage", str(tmp_path / "b")]) == 1
    assert main(["lineage", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert [s.kind for s in lineage(BASE)] == ["base"]


# ---- adapters ---------------------------------------------------------------------------------------------------


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
