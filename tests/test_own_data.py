"""Own data through the published notebooks, format by format: from the passport to the report, no Python to write."""

import json
import shutil

import pytest
from papermill import PapermillExecutionError
from safetensors.torch import load_file, save_file

from cookbook import checkpoint, jobs, new
from cookbook.config import Config, lint
from cookbook.config.schema import LENGTH
from cookbook.evaluation.predict import weights_hash
from cookbook.pipeline import START
from cookbook.runs import FOLDER, ROOT, read_jsonl
from cookbook.tutorial import execute
from data_tools import formats, road_vqa
from data_tools.worlds import road

CLIPS = 24
NAME = "job_of_a_test"  # nobody has a folder jobs/ of this name
FORMS = ("llava", "hf_sft", "saved", "samples_jsonl")  # of questions with choices and a written answer
SHORT = {"steps": 2, "generations": 4, "engine": "local", "control_questions": 4}


@pytest.fixture
def runs(tmp_path_factory, monkeypatch):
    """Jobs go to a temporary folder with nothing else in it, in the notebooks' kernels too."""
    folder = tmp_path_factory.mktemp("runs")
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder in the guide's layout, of 24 clips: what a converter is given."""
    return road.build(tmp_path_factory.mktemp("own"), {"train": CLIPS}, seed=7)


def dataset(clips, folder, form):
    """Returns the data in a format: labels as they are for the guide's own, else a question a clip."""
    if form == "av_folder":
        return clips / "train"
    asked = {s.group: s for s in road_vqa.read(clips, "train", jobs.toy_contract()) if len(s.options) == 4}
    formats.write(asked.values(), folder, form)
    return folder


def run(out, name, data, notebooks=("data", "sft", "rl", "evaluation"), **wanted):
    for notebook in notebooks:
        execute(ROOT / f"notebooks/{notebook}.ipynb", out, {"job": name, "data": str(data)} | SHORT | wanted)


def manifest(runs, name, step):
    return json.loads((runs / name / step / "manifest.json").read_text())


def nothing_of_the_toy_road(runs, *names):
    return not list(runs.rglob("*.mp4")) and {place.name for place in runs.iterdir()} == {*names, ".cache"}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_questions_with_written_answers_go_from_data_to_report(runs, tmp_path, clips, form):
    data = dataset(clips, tmp_path / form, form)
    run(tmp_path / "out", NAME, data)
    sft, rl = manifest(runs, NAME, "sft"), manifest(runs, NAME, "rl")
    assert (sft["data"], sft["start"], rl["start"]) == (str(data), jobs.BASE, str(runs / NAME / "sft"))
    assert (sft["steps"], rl["steps"], sft["contract"]) == (2, 2, rl["contract"])
    comparison = json.loads((runs / NAME / "evaluation/comparison.json").read_text())
    assert list(comparison["models"]) == ["base", "sft", "rl"] and (runs / NAME / "report.html").is_file()
    asked = {row["id"] for row in read_jsonl(runs / NAME / "evaluation/predictions_rl.jsonl")}
    assert asked and not asked & {row["id"] for row in read_jsonl(runs / NAME / "rl/generations.jsonl")}
    assert nothing_of_the_toy_road(runs, NAME)


def test_questions_without_written_answers_are_for_rl_alone_and_the_base_is_the_one_named(runs, tmp_path, clips):
    data, base = dataset(clips, tmp_path / "own", "hf_rl"), tmp_path / "other-base"
    shutil.copytree(ROOT / jobs.BASE, base)
    weights = next(base.glob("*.safetensors"))
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(PapermillExecutionError, match="end without an answer"):
        run(tmp_path, NAME, data, ("sft",))
    run(tmp_path, NAME, data, ("rl", "evaluation"), base=str(base))
    assert manifest(runs, NAME, "rl")["start"] == str(base)
    rows = read_jsonl(runs / f"{NAME}/evaluation/predictions_base.jsonl")
    assert {row["weights"] for row in rows} == {weights_hash(checkpoint.load(base)[0])}
    assert nothing_of_the_toy_road(runs, NAME)


@pytest.mark.slow
def test_captions_are_learned_measured_as_such_and_rl_says_what_could_pay_for_them(runs, tmp_path, clips):
    data = dataset(clips, tmp_path, "av_folder")
    run(tmp_path, NAME, data, ("data", "sft"))
    with pytest.raises(PapermillExecutionError, match='What works on these samples: reward = "rouge_l: 1"'):
        run(tmp_path, NAME, data, ("rl",))
    run(tmp_path, NAME, data, ("rl", "evaluation"), reward="rouge_l")
    assert manifest(runs, NAME, "rl")["start"] == str(runs / f"{NAME}/sft")
    assert nothing_of_the_toy_road(runs, NAME)


def test_a_job_is_written_and_runs_from_its_folder(runs, tmp_path, clips, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "FOLDER", tmp_path / "jobs")
    data = dataset(clips, tmp_path / "own", "llava")
    assert new.main(["mine", "--data", str(data)]) == 0
    folder = tmp_path / "jobs/mine"
    assert {file.name for file in folder.iterdir()} == {"README.md", "contract.yaml", "rl.toml", "sft.toml"}
    for step in ("sft", "rl"):
        config = Config.load(folder / f"{step}.toml")
        assert not [finding for finding in lint(config) if finding.level == "error"]
        work = jobs.job("mine", step)
        assert (work.loader, work.base) == ("data_tools/llava_sft.py", jobs.BASE if step == "sft" else work.start)
    assert work.start == str(runs / "mine/sft")  # the SFT that is to come, and no other job's
    told = capsys.readouterr().out
    assert "python -m cookbook.tutorial --job mine" in told and "RL pays for single_choice" in told
    assert new.main(["mine", "--data", str(data)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert new.main(["other", "--data", str(tmp_path / "nowhere")]) == 1 and not (tmp_path / "jobs/other").exists()
    assert new.main(["asked", "--data", str(data), "--contract", "configs/prompts/choices.yaml"]) == 0
    work, own = jobs.job("asked", "rl"), tmp_path / "jobs/asked/contract.yaml"
    assert work.config.table("custom")["contract"] == str(own)
    assert own.read_text() == (ROOT / "configs/prompts/choices.yaml").read_text()
    assert new.main(["none", "--data", str(data), "--contract", "configs/prompts/no.yaml"]) == 1


def test_where_no_tokenizer_is_there_lengths_hold_the_clips_and_the_job_says_so(
    runs, tmp_path, clips, monkeypatch, capsys
):
    monkeypatch.setattr(jobs, "FOLDER", tmp_path / "jobs")
    for step in ("sft", "rl"):
        short = Config.load(f"configs/{step}_1gpu_lora.toml").edit({LENGTH: 64, START: str(tmp_path / "not-there")})
        (tmp_path / f"{step}.toml").write_text(short.text())
    data = dataset(clips, tmp_path / "own", "llava")
    for name, base in (("rough", ""), ("counted", jobs.BASE)):
        asked = ["--data", str(data), "--config", str(tmp_path / "sft.toml"), "--base", base]
        assert new.main([name, *asked]) == 0
        assert ("Lengths are not counted: " in capsys.readouterr().out) == (not base)
    for step in ("sft", "rl"):
        rough, counted = (Config.load(tmp_path / f"jobs/{name}/{step}.toml")[LENGTH] for name in ("rough", "counted"))
        assert 64 < counted <= rough <= 2 * counted
