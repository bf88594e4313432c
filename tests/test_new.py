"""`cookbook.new` says what it does, and what it imports first is light: each process that reads clips imports it."""

import json
import subprocess
import sys

import clip_makers as make
import pytest

from cookbook import new
from cookbook.config import Config, lint
from cookbook.config.rules import View, total_steps
from cookbook.data.samples import DataError
from cookbook.runs import ROOT


def test_the_processes_that_read_clips_do_not_wait_for_torch():
    heavy = "import sys, cookbook.new; print(sys.modules.keys() & {'torch', 'transformers', 'scipy', 'pandas'})"
    result = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_it_says_what_it_reads_before_it_does(monkeypatch, tmp_path, capsys):
    def write_job(*_, **__):
        assert "reading my_clips" in capsys.readouterr().err
        (tmp_path / "README.md").write_text("# mine")
        return tmp_path

    monkeypatch.setattr(new, "write_job", write_job)
    assert new.main(["mine", "--data", "my_clips"]) == 0 and capsys.readouterr().out == "# mine\n"


@pytest.mark.parametrize(("sft", "rl"), [
    ("configs/tiny_sft.toml", "configs/tiny_rl.toml"),
    ("configs/sft_1gpu_lora.toml", "configs/rl_1gpu_lora.toml"),
    ("configs/reason2/8b_lora_1gpu.toml", "configs/reason2/8b_rl_lora_1gpu.toml"),
    ("configs/reason2/8b_sft_4gpu.toml", "configs/reason2/8b_rl_4gpu.toml"),
])  # fmt: skip
def test_a_file_brings_the_other_steps_of_its_scale(sft, rl):
    assert new.pair(sft, "") == new.pair("", rl) == new.pair(sft, rl) == {"sft": sft, "rl": rl}
    assert new.pair(sft, "configs/rl_8gpu.toml") == {"sft": sft, "rl": "configs/rl_8gpu.toml"}


@pytest.mark.parametrize(("asked", "add"), [
    (("configs/sft_1gpu_lora_24gb.toml", ""), "add --rl-config FILE"),
    (("configs/nofile.toml", ""), "nofile.toml: there is no such file"),
    (("", "", "nvidia/Cosmos-Reason2-8B"), "add --config, such as configs/reason2/8b_lora_1gpu.toml"),
])  # fmt: skip
def test_scales_are_not_mixed(asked, add):
    with pytest.raises(DataError, match=add):
        new.pair(*asked)


@pytest.mark.parametrize(("name", "given", "said"), [
    ("my job", {}, "would have to be quoted"),
    ("tutorial", {}, "tutorial is the job of the toy road"),
    ("mine", {"base": "/nowhere"}, "/nowhere: there is no such folder"),
    ("mine", {"data": "./nowhere"}, "./nowhere: there is no such folder or file; --data takes one"),
    ("mine", {"sft": "configs/rl.toml"}, "configs/rl.toml: is of grpo"),
    ("mine", {"rl": "configs/sft.toml"}, "configs/sft.toml: is of sft"),
])  # fmt: skip
def test_what_can_make_no_job_is_told_before_data_are_read(name, given, said, runs, monkeypatch):
    monkeypatch.setattr("cookbook.jobs.fitted", lambda *_, **__: pytest.fail("it was read"))
    configs = {"sft": "configs/tiny_sft.toml", "rl": "configs/tiny_rl.toml"} | given
    with pytest.raises(DataError, match=said):
        steps = {step: configs[step] for step in ("sft", "rl")}
        new.write_job(name, given.get("data", "anywhere"), steps, given.get("base", ""))


def test_a_job_none_of_whose_training_samples_is_usable_is_refused(runs, tmp_path):
    for n in range(4):
        for split in ("train", "test"):
            make.pair(tmp_path, f"0f3c-77ab-{n}x", n, split=split)
    with pytest.raises(DataError, match=r"no sample of train is usable.*leak"):
        new.write_job("mine", str(tmp_path), {"sft": "configs/tiny_sft.toml", "rl": "configs/tiny_rl.toml"})


def test_what_takes_the_reward_for_choices_from_all_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("cookbook.jobs.FOLDER", tmp_path / "jobs")
    lines = [{"video": f"v{n}.mp4", "question": "Which?\nA. car\nB. tree", "answer": "AB"[n % 2]} for n in range(8)]
    lines[3] |= {"question": "What is it?", "answer": "A car that turns."}
    (tmp_path / "data").mkdir()
    for n, line in enumerate(lines):
        make.write(tmp_path / "data" / line["video"], make.frames(n))
    (tmp_path / "data" / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = {"sft": "configs/tiny_sft.toml", "rl": "configs/tiny_rl.toml"}
    told = (new.write_job("mine", str(tmp_path / "data"), config) / "README.md").read_text()
    assert "1 of 5 training samples have no choices to read, such as d-000003; single_choice" in " ".join(told.split())


@pytest.mark.parametrize(("file", "samples", "steps"), [
    ("configs/reason2/8b_lora_1gpu.toml", 44, 50), ("configs/sft.toml", 44, 50), ("configs/tiny_sft.toml", 3, 50),
    ("configs/rl_1gpu_lora.toml", 44, 30), ("configs/sft.toml", 100_000, 700),
])  # fmt: skip
def test_few_samples_are_seen_often(file, samples, steps):
    config = new._seen_often(Config.load(file), samples)
    made = total_steps(View(config), samples)
    assert steps <= made <= 1.2 * steps + 50 and config["train.optm_warmup_steps"] <= made / 10
    assert not [issue for issue in lint(config, samples=samples) if issue.level == "error"]


def test_a_job_of_a_published_base_says_how_it_is_planned():
    made = {"sft": Config.load("configs/sft.toml"), "rl": Config.load("configs/rl.toml")}
    lines = new._plans("mine", made, 44, [(1500, 20), (900, 600)]).splitlines()
    end = "--gpus 4 --gpu-gib 80 --samples 44 --tokens"
    assert [line.strip() for line in lines[::2]] == [
        f"python -m cookbook.config plan jobs/mine/sft.toml {end} 1520",
        f"python -m cookbook.config plan jobs/mine/rl.toml {end} 1500",
    ]
    assert "does not fit; " in lines[1] and " GiB, " in new._plans("mine", made, 2000, [(1500, 20)])
    assert new._plans("mine", {"sft": Config.load("configs/tiny_sft.toml")}, 44, []) == ""
