"""Checkpoints: what a path stands for, which exports stay, which training state can be resumed."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from checkpoint_makers import ADAPTER, BASE, make

from cookbook import checkpoint, tutorial
from cookbook.checkpoint import CheckpointError, find, last_complete, write_checkpoint


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


def test_a_hubs_model_that_was_downloaded_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(CheckpointError, match="some/body"):
        find("some/body")
    place = tmp_path / "models--some--body"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    shutil.copytree(BASE, place / "snapshots/abc")
    assert find("some/body") == place / "snapshots/abc" and tutorial.downloaded("some/body")
    assert not tutorial.downloaded("some/one") and not tutorial.downloaded("no name of the hub")
    assert checkpoint.load("some/body")[1].tokenizer.vocab_size == checkpoint.load(BASE)[1].tokenizer.vocab_size


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


@pytest.mark.fault("local engine")
def test_a_stop_while_the_earlier_export_is_deleted_leaves_the_new_one_whole(tmp_path, stock, processor, monkeypatch):
    place = tmp_path / "safetensors" / "step_2"
    write_checkpoint(stock, processor, place, torch.float32)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cookbook.checkpoint.store.shutil.rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(stock, processor, place, torch.bfloat16)
    assert find(place) == place
    assert json.loads((place / "config.json").read_text())["architectures"]
    monkeypatch.undo()
    write_checkpoint(stock, processor, place, torch.float32)
    assert [file.name for file in place.parent.iterdir()] == ["step_2"]
