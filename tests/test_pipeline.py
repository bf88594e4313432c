"""The job's steps: one folder a job, nothing of an earlier run passes for this one's."""

import json

import pytest
import torch

from cookbook import checkpoint, pipeline
from cookbook.config import Config, lint
from cookbook.config.rules import View, gpus_needed
from cookbook.data.contract import ContractError
from data_tools import formats, road_vqa
from data_tools.worlds import road


def test_a_job_refuses_the_clips_of_another_seed_or_another_version_of_the_world(runs, monkeypatch):
    pipeline.road_data("job", 0, {"train": 2, "validation": 1, "test": 1})
    assert pipeline.road_data("job", 0) == runs / "job" / "data"
    with pytest.raises(ValueError, match="seed 0, not 1"):
        pipeline.road_data("job", 1)
    monkeypatch.setattr("data_tools.worlds.road.VERSION", 10_000)
    with pytest.raises(ValueError, match=r"version \d+, not 10000"):
        pipeline.road_data("job", 0)


def test_the_share_of_reasoned_targets_is_kept_and_answers_stay_right(runs):
    pipeline.road_data("job", 0, {"train": 100, "validation": 1, "test": 1})
    careful, mixed = pipeline.samples("job", "train"), pipeline.samples("job", "train", reasoned=0.45)
    bare = sum("<think></think>" in s.target for s in mixed) / len(mixed)
    assert bare == pytest.approx(0.55, abs=0.08)
    assert [s.answer for s in careful] == [s.answer for s in mixed]
    assert not any("<think></think>" in s.target for s in careful)
    assert len({s.group for s in pipeline.samples("job", "train", clips=7)}) == 7


def test_a_shorter_run_replaces_the_exports_of_a_longer_one(runs):
    pipeline.road_data("job", 0, {"train": 8, "validation": 1, "test": 1})
    config = Config.load("configs/tiny_sft.toml").edit(
        {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "validation.enable": False}
    )
    long = pipeline.train_sft(config.edit({"train.max_num_steps": 2}), "job")
    short = pipeline.train_sft(config.edit({"train.max_num_steps": 1}), "job")
    assert (long.name, short.name) == ("step_2", "step_1")
    assert not long.exists()


def test_what_the_passport_quarantines_is_neither_trained_on_nor_asked(runs):
    folder = pipeline.road_data("job", 0, {"train": 6, "validation": 2, "test": 4})
    before = {split: pipeline.samples("job", split) for split in pipeline.CLIPS}
    leaked = next((folder / "test/videos").iterdir())
    twin = folder / "train/videos" / before["train"][0].video.name
    twin.write_bytes(leaked.read_bytes())
    found = pipeline.check_data("job")
    assert {q.split for q in found.quarantine} == {"train"}
    after = {split: pipeline.samples("job", split) for split in pipeline.CLIPS}
    assert {s.group for s in before["train"]} - {s.group for s in after["train"]} == {before["train"][0].group}
    assert [s.id for s in after["test"]] == [s.id for s in before["test"]]
    config = Config.load("configs/tiny_sft.toml").edit(
        {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "train.max_num_steps": 1,
         "validation.enable": False}
    )  # fmt: skip
    pipeline.train_sft(config, "job")
    manifest = json.loads((folder.parent / "sft/manifest.json").read_text())
    assert manifest["passport"] == found.hash and manifest["contract"] == pipeline.contract().hash
    pipeline.road_data("job", 0, {"train": 5, "validation": 2, "test": 4})
    assert not (folder / "passport.json").exists()


def test_a_checkpoint_of_another_contract_is_refused(runs):
    pipeline.road_data("job", 0, {"train": 8, "validation": 1, "test": 1})
    config = Config.load("configs/tiny_sft.toml").edit(
        {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "train.max_num_steps": 1,
         "validation.enable": False}
    )  # fmt: skip
    export = pipeline.train_sft(config, "job")
    pipeline.open_model(export)
    own = export / "contract.yaml"
    own.write_text(own.read_text().replace("fps: 2", "fps: 1"))
    with pytest.raises(ContractError, match="fps: 1 there, 2 here"):
        pipeline.open_model(export)


LOADERS = {"av_folder": "avha_sft_single_caption", "llava": "llava_sft", "saved": "saved_sft"}


@pytest.mark.parametrize("kind", LOADERS)
def test_the_local_engine_trains_on_what_a_loader_file_gives(runs, tmp_path, kind):
    """The folder and the TOML of `cosmos-rl --config X.toml LOADER.py`, unchanged, with one bad clip among them."""
    data = road.build(tmp_path / "av_folder", {"train": 12}, seed=2)
    if kind != "av_folder":
        questions = road_vqa.read(data, "train", pipeline.contract())
        data = tmp_path / kind
        formats.write(list({s.group: s for s in questions}.values()), data / "train", kind)
    bad = sorted((data / "train").rglob("*.mp4"))[5]
    bad.write_bytes(bad.read_bytes()[:200])
    config = Config.load("configs/tiny_sft.toml").edit(
        {"train.train_policy.dataset.name": str(data), "train.train_batch_per_replica": 4, "validation.enable": False,
         "train.train_policy.mini_batch": 4, "train.max_num_steps": 2, "policy.model_max_length": 2048,
         "custom": {"contract": "configs/prompts/captions.yaml"}}
    )  # fmt: skip
    export = pipeline.train_sft(config, "job", loader=f"data_tools/{LOADERS[kind]}.py")
    assert export.name == "step_2"
    manifest = json.loads((runs / "job/sft/manifest.json").read_text())
    checked = json.loads((runs / "job/data/passport.json").read_text())
    assert manifest["passport"] == checked["hash"]
    assert [q["split"] for q in checked["quarantine"]] == ["train"]
    assert "11 samples" in (runs / "job/sft/log.txt").read_text()


def test_cosmos_rl_gets_the_jobs_data_and_gpus_and_its_export_the_contract(runs, monkeypatch):
    pipeline.road_data("job", 0, {"train": 40, "validation": 2, "test": 2})
    seen = {}

    def launch(config, loader, run, **how):
        seen.update(config=config, loader=loader, how=how)
        return checkpoint.write(*checkpoint.load(pipeline.BASE), run.path / "safetensors/step_1", torch.bfloat16)

    monkeypatch.setattr(pipeline, "launch", launch)
    config = Config.load("configs/tiny_sft.toml")
    export = pipeline.train_sft(config, "job", engine="cosmos-rl", gpus=2)
    got = seen["config"]
    assert (seen["loader"], got["policy.parallelism.dp_shard_size"]) == (pipeline.LOADER, 2)
    assert got["train.train_batch_per_replica"] == config["train.train_batch_per_replica"] // 2
    assert got[pipeline.DATASET] == str(runs / "job/data") and got["custom.passport"].endswith("passport.json")
    assert pipeline.Contract.load(export / checkpoint.CONTRACT).hash == pipeline.contract().hash
    rl = Config.load("configs/tiny_rl.toml").edit({"policy.model_name_or_path": str(runs / "job/sft")})
    pipeline.train_rl(rl, "job", engine="cosmos-rl", gpus=2)
    got = seen["config"]
    assert got["rollout.parallelism.dp_shard_size"] == 2 and got["policy.model_name_or_path"] == str(export)


def test_without_gpus_auto_is_the_local_engine(monkeypatch):
    monkeypatch.setattr(pipeline.torch.cuda, "is_available", lambda: False)
    assert pipeline.choose_engine() == "local"
    with pytest.raises(ValueError, match="it is one of auto, local, cosmos-rl"):
        pipeline.choose_engine("cosmos")


@pytest.mark.parametrize(("name", "gpus"), [("rl.toml", 4), ("rl_8gpu.toml", 8), ("rl_2gpu.toml", 2), ("sft.toml", 8)])
def test_all_gpus_are_used_and_rollouts_keep_their_own(name, gpus):
    before = Config.load(f"configs/{name}")
    config = pipeline.on_gpus(before, gpus)
    assert sum(gpus_needed(View(config))) == gpus
    assert gpus_needed(View(config))[1] == gpus_needed(View(before))[1]
    assert not [f for f in lint(config, gpus=gpus) if f.level == "error"]
