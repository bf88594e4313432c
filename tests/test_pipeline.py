"""The job and its steps: on any data, one folder a job, nothing of an earlier run passes for this one's."""

import json
from collections import Counter
from pathlib import Path

import official_layouts as made
import pytest
import torch

from cookbook import checkpoint, jobs, pipeline
from cookbook.config import Config, lint
from cookbook.config.rules import View, gpus_needed
from cookbook.data.contract import Contract, ContractError
from cookbook.data.samples import DataError, Sample, message, text
from cookbook.runs import read_metrics
from data_tools import formats, road_vqa
from data_tools.worlds import road

SHORT = {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "train.max_num_steps": 1,
         "validation.enable": False}  # fmt: skip


def world(runs, **clips):
    """The clips of the job `job`, fewer than it would make."""
    return road_vqa.world(runs / "job" / "data", 0, {"train": 8, "validation": 1, "test": 1} | clips)


def test_a_job_refuses_the_clips_of_another_seed_or_another_version_of_the_world(runs, monkeypatch):
    world(runs)
    assert jobs.job("job").config[pipeline.DATASET] == str(runs / "job" / "data")
    with pytest.raises(ValueError, match="seed 0, not 1"):
        jobs.job("job", seed=1)
    monkeypatch.setattr("data_tools.worlds.road.VERSION", 10_000)
    with pytest.raises(ValueError, match=r"version \d+, not 10000"):
        jobs.job("job")


@pytest.mark.fault("inputs")
def test_a_damaged_file_of_the_made_world_is_named(runs):
    for file in (world(runs) / "world.json", next((world(runs) / "train/metas").iterdir())):
        whole = file.read_bytes()
        file.write_text("[]")
        with pytest.raises(ValueError, match=rf"{file.name}: holds list, no object; mend it"):
            road_vqa.read(road_vqa.world(runs / "job/data"), "train", jobs.toy_contract())
        file.write_bytes(whole)


def test_the_share_of_reasoned_targets_is_kept_and_answers_stay_right(runs):
    world(runs, train=100)
    careful, mixed, few = (
        jobs.job("job", changes={"custom.reasoned": share, "custom.clips": clips}).splits["train"]
        for share, clips in ((1.0, -1), (0.45, -1), (0.45, 7))
    )
    bare = sum("<think></think>" in s.target for s in mixed) / len(mixed)
    assert bare == pytest.approx(0.55, abs=0.08)
    assert [s.answer for s in careful] == [s.answer for s in mixed]
    assert not any("<think></think>" in s.target for s in careful)
    assert len({s.group for s in few}) == 7


def test_a_shorter_run_replaces_the_exports_of_a_longer_one_where_it_is_asked_for(runs, monkeypatch, capsys):
    world(runs)
    long = pipeline.train(jobs.job("job", changes=SHORT | {"train.max_num_steps": 2}))
    assert pipeline.train(jobs.job("job", changes=SHORT), keep=True) == long and long.exists()
    assert "of other settings (train.max_num_steps: 2 there, 1 here) and this code" in capsys.readouterr().out
    with monkeypatch.context() as other:  # what other code has trained is not kept
        other.setattr("cookbook.runs.code_hash", lambda: "other")
        assert pipeline.train(jobs.job("job", changes=SHORT), keep=True).name == "step_1"
    long = pipeline.train(jobs.job("job", changes=SHORT | {"train.max_num_steps": 2}))
    short = pipeline.train(jobs.job("job", changes=SHORT))
    assert (long.name, short.name) == ("step_2", "step_1")
    assert not long.exists()


def test_what_the_passport_quarantines_is_neither_trained_on_nor_asked(runs):
    folder = world(runs, train=6, validation=2, test=4)
    before = jobs.job("job").splits
    leaked = next((folder / "test/videos").iterdir())
    twin = folder / "train/videos" / before["train"][0].video.name
    twin.write_bytes(leaked.read_bytes())
    found = pipeline.check_data(Config.load("configs/tiny_sft.toml"), "job", jobs.LOADER)
    assert {q.split for q in found.quarantine} == {"train"}
    with pytest.raises(DataError, match=r"would be left out.*accept_left_out"):
        jobs.job("job", changes=SHORT)
    job = jobs.job("job", changes=SHORT | {"custom.accept_left_out": 0.2})
    assert {s.group for s in before["train"]} - {s.group for s in job.splits["train"]} == {before["train"][0].group}
    assert [s.id for s in before["test"]] == [s.id for s in job.unseen()]
    pipeline.train(job)
    manifest = json.loads((folder.parent / "sft/manifest.json").read_text())
    assert manifest["passport"] == found.hash == job.passport and manifest["contract"] == job.contract.hash
    world(runs, train=5, validation=2, test=4)
    assert not (folder / "passport.json").exists()


def test_rl_of_the_tutorial_can_be_looked_at_before_its_sft_is_there(runs):
    world(runs)
    rl = jobs.job("job", "rl")
    assert rl.start == rl.base == str(runs / "job/sft") and not (runs / "job/sft").exists()
    assert rl.passport == jobs.job("job").passport and json.loads((runs / "job/data/passport.json").read_text())[
        "max_length"]  # fmt: skip


def test_all_clips_of_a_made_world_are_checked_whatever_part_is_taken(runs):
    world(runs, train=6)
    jobs.job("job", changes={"custom.clips": 2})
    checked = json.loads((runs / "job/data/passport.json").read_text())
    assert sorted(Counter(name.split("/")[0] for name in checked["clips"]).items()) == [
        ("test", 1), ("train", 6), ("validation", 1)
    ]  # fmt: skip


def test_a_checkpoint_of_another_contract_is_refused(runs):
    world(runs)
    job = jobs.job("job", changes=SHORT)
    export = pipeline.train(job)
    pipeline.open_model(export, job.contract)
    own = export / "contract.yaml"
    own.write_text(own.read_text().replace("fps: 2", "fps: 1"))
    with pytest.raises(ContractError, match="fps: 1 there, 2 here"):
        pipeline.open_model(export, job.contract)


@pytest.mark.fault("repeatability")
def test_a_prepared_job_keeps_its_contract_whatever_becomes_of_the_file(runs, tmp_path):
    world(runs)
    file = tmp_path / "own.yaml"
    file.write_text(Path(jobs.CONTRACT).read_text())
    job = jobs.job("job", changes=SHORT, contract=str(file))
    file.write_text(file.read_text().replace("fps: 2", "fps: 1"))
    export = pipeline.train(job)
    pipeline.evaluate(job, 2)
    assert Contract.load(export / checkpoint.CONTRACT) == job.contract != Contract.load(file)


def test_the_base_of_a_comparison_is_what_the_start_was_trained_from_or_what_is_said(runs):
    world(runs)
    pipeline.train(jobs.job("job", changes=SHORT))
    rl = jobs.job("job", "rl")
    assert (rl.start, rl.base) == (str(runs / "job/sft"), jobs.BASE)
    other = pipeline.prepare(rl.config, "job", jobs.LOADER, base="some/other")
    assert pipeline.models(other) == {"base": "some/other", "sft": str(runs / "job/sft")}
    hub = pipeline.prepare(rl.config.edit({pipeline.START: "nvidia/Cosmos-Reason1-7B"}), "job", jobs.LOADER)
    assert hub.start == hub.base == "nvidia/Cosmos-Reason1-7B"


LOADERS = {"av_folder": "avha_sft_single_caption", "llava": "llava_sft", "saved": "saved_sft"}


def own_data(tmp_path, kind):
    """Returns a folder with splits `train` and `test` in one of the formats, outside of runs/."""
    made = road.build(tmp_path / "av_folder", {"train": 12, "test": 2}, seed=2)
    if kind == "av_folder":
        return made
    for split in ("train", "test"):
        questions = road_vqa.read(made, split, Contract.load("configs/prompts/road.yaml"))
        formats.write(list({s.group: s for s in questions}.values()), tmp_path / kind / split, kind)
    return tmp_path / kind


def own(config, data):
    return config.edit(
        {pipeline.DATASET: str(data), "train.train_batch_per_replica": 4, "validation.enable": False,
         "train.train_policy.mini_batch": 4, "train.max_num_steps": 2, "policy.model_max_length": 2048,
         "custom": {"contract": "configs/prompts/captions.yaml", "accept_left_out": 0.1}}
    )  # fmt: skip


@pytest.mark.parametrize("kind", LOADERS)
def test_the_local_engine_trains_on_what_a_loader_file_gives(runs, tmp_path, kind):
    """The folder and the TOML of `cosmos-rl --config X.toml LOADER.py`, unchanged, with one bad clip among them."""
    data = own_data(tmp_path, kind)
    bad = sorted((data / "train").rglob("*.mp4"))[5]
    bad.write_bytes(bad.read_bytes()[:200])
    job = pipeline.prepare(own(Config.load("configs/tiny_sft.toml"), data), "job", f"data_tools/{LOADERS[kind]}.py")
    export = pipeline.train(job)
    assert export.name == "step_2"
    manifest = json.loads((runs / "job/sft/manifest.json").read_text())
    checked = json.loads((runs / "job/data/passport.json").read_text())
    assert manifest["passport"] == checked["hash"]
    assert [q["split"] for q in checked["quarantine"]] == ["train"]
    assert "11 samples" in (runs / "job/sft/log.txt").read_text()


@pytest.mark.parametrize("kind", ["av_folder", "llava"])
def test_a_job_on_own_data_goes_the_whole_road_and_no_toy_clip_is_made(runs, tmp_path, kind):
    data, loader = own_data(tmp_path, kind), f"data_tools/{LOADERS[kind]}.py"
    pipeline.train(pipeline.prepare(own(Config.load("configs/tiny_sft.toml"), data), "job", loader))
    paid = {"train.train_policy.reward_function": {"rouge_l": 1.0}, "rollout.n_generation": 4, pipeline.START: ""}
    paid |= {"train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8}
    job = pipeline.prepare(own(Config.load("configs/tiny_rl.toml"), data).edit(paid), "job", loader, seed=1)
    pipeline.train(job)
    comparison, rows = pipeline.evaluate(job)
    pipeline.controls(job, "rl")
    page = pipeline.report(job, comparison, rows)
    assert [s.group for s in job.unseen()] == [row["group"] for row in rows["rl"]] and len(rows["rl"]) == 2
    assert list(comparison["models"]) == ["base", "sft", "rl"]
    again = f"papermill notebooks/rl.ipynb notebooks/out.ipynb -p job job -p seed 1 -p config {runs}/job/rl/config.toml"
    assert again in page.read_text(encoding="utf-8")
    assert [len(read_metrics(f"job/{step}")) for step in ("sft", "rl")] == [2, 2]
    assert not list((runs / "job").rglob("*.mp4")) and not (runs / "job/data/world.json").exists()


def test_cosmos_rl_gets_the_jobs_data_and_gpus_and_its_export_the_contract(runs, monkeypatch):
    world(runs, train=40, validation=2, test=2)
    seen = {}

    def launch(config, loader, run, **how):
        seen.update(config=config, loader=loader, how=how)
        run.write_manifest(outcome="finished")
        return checkpoint.write_checkpoint(*checkpoint.load(jobs.BASE), run.path / "safetensors/step_1", torch.bfloat16)

    monkeypatch.setattr(pipeline, "launch", launch)
    job = jobs.job("job")
    export = pipeline.train(job, engine="cosmos-rl", gpus=2)
    got = seen["config"]
    assert (seen["loader"], got["policy.parallelism.dp_shard_size"]) == (jobs.LOADER, 2)
    assert got["train.train_batch_per_replica"] == job.config["train.train_batch_per_replica"] // 2
    assert got[pipeline.DATASET] == str(runs / "job/data") and got["custom.passport"].endswith("passport.json")
    assert Contract.load(export / checkpoint.CONTRACT).hash == job.contract.hash
    pipeline.train(jobs.job("job", "rl", changes={pipeline.START: ""}), engine="cosmos-rl", gpus=2)
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


@pytest.mark.parametrize(("name", "gpus", "each"), [("sft_8gpu", 8, 32), ("sft_8gpu", 4, 64), ("sft_2gpu", 1, 128),
                                                    ("sft_8gpu", 7, 36), ("tiny_sft", 4, 8)])  # fmt: skip
def test_the_batch_of_a_step_stays_what_the_file_says_for_all_its_gpus(name, gpus, each):
    config = pipeline.on_gpus(Config.load(f"configs/{name}.toml"), gpus)
    assert config["train.train_batch_per_replica"] == each and each % config["train.train_policy.mini_batch"] == 0


@pytest.mark.parametrize(("gpus", "there", "used"), [(0, 8, 8), (2, 8, 2), (8, 2, 2)])
def test_answers_are_spread_over_the_gpus_that_are_there(runs, monkeypatch, gpus, there, used):
    world(runs)
    monkeypatch.setattr(pipeline.torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(pipeline, "predict_parallel", lambda command, ids, out, gpus: gpus)
    assert pipeline.ask(jobs.job("job"), "base", jobs.BASE, 4, gpus) == used


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_few_samples_of_other_data_fill_a_step_of_a_file_for_eight_gpus(runs, tmp_path, gpus):
    made.av(tmp_path / "data", {f"c{i}": {"weather": "rain", "n": i} for i in range(21)})
    config = Config.load("configs/sft_8gpu.toml").edit({pipeline.START: jobs.BASE, "validation.enable": False})
    config, found = jobs.fitted(config, "mine", str(tmp_path / "data"))
    count = found.counts["train"]["usable"]
    assert not [f for f in lint(pipeline.on_gpus(config, gpus), gpus=gpus, samples=count) if f.level == "error"]


@pytest.mark.parametrize(("gpus", "each"), [(1, 256), (4, 64), (8, 32)])
def test_a_step_of_sft_takes_as_many_samples_on_any_number_of_gpus(gpus, each):
    """The engine counts the batch of SFT for each GPU; the published file has 32 on each of eight."""
    config = pipeline.on_gpus(Config.load("configs/recipes/video_rewards_sft.toml"), gpus)
    assert (config["policy.parallelism.dp_shard_size"], config["train.train_batch_per_replica"]) == (gpus, each)


def test_who_asks_for_steps_gets_as_many_passes_as_they_take(runs):
    world(runs, train=8)
    few = jobs.job("job", changes={"train.train_batch_per_replica": 8, "train.max_num_steps": 1})
    many = jobs.job("job", changes={"train.train_batch_per_replica": 8, "train.max_num_steps": 50})
    per_pass = len(few.splits["train"]) // 8
    assert few.config["train.epoch"] == jobs.job("job").config["train.epoch"]
    assert many.config["train.epoch"] == -(-50 // per_pass)
    stated = jobs.job("job", changes={"train.max_num_steps": 50, "train.epoch": 1})
    assert stated.config["train.epoch"] == 1


@pytest.mark.parametrize("copies", [2, 16])
def test_groups_of_another_size_leave_the_prompts_of_a_step_as_they_were(copies):
    config = Config.load("configs/tiny_rl.toml")
    work = pipeline.Job("job", 0, "", config, jobs.toy_contract(), {}, "", "", "")
    changed = jobs.regrouped(work, copies).config
    size, part = (changed[f"train.{key}"] for key in ("train_batch_per_replica", "train_policy.mini_batch"))
    assert (changed["rollout.n_generation"], size, part) == (copies, 16 * copies, 16 * copies)
    assert jobs.regrouped(work, 0) is work


def test_a_job_is_as_shipped_only_where_both_steps_ran_with_the_shipped_settings(runs):
    assert not jobs.as_shipped("job")
    files = {step: runs / "job" / step / "config.toml" for step in jobs.CONFIGS}
    for step, file in files.items():
        file.parent.mkdir(parents=True)
        made_by_a_job = {"train.output_dir": str(file.parent), "custom.loader": jobs.LOADER}
        file.write_text(Config.load(jobs.CONFIGS[step]).edit(made_by_a_job).text(), encoding="utf-8")
    assert jobs.as_shipped("job")
    assert not jobs.shipped(Config.load(files["sft"]).edit({"train.max_num_steps": 4}))  # a key that it leaves out
    files["sft"].write_text(Config.load(files["sft"]).edit({"train.epoch": 1}).text(), encoding="utf-8")
    assert not jobs.as_shipped("job")


def test_samples_of_several_splits_have_ids_of_their_own():
    one, other, third = (Sample(name, name, (message("user", text(said)),)) for name, said in zip("aab", "xyz"))
    found = jobs._all_of({"train": [one, third], "validation": [other]})
    assert [(s.id, s.question) for s in found] == [("train-a", "x"), ("b", "z"), ("validation-a", "y")]
