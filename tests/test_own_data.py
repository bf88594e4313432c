"""Own data through the published notebooks, format by format: from the passport to the report, no Python to write."""

import json
import shutil

import pytest
from papermill import PapermillExecutionError
from safetensors.torch import load_file, save_file

from cookbook import checkpoint, jobs, new
from cookbook.config import Config, lint
from cookbook.evaluation.predict import weights_hash
from cookbook.runs import ROOT, read_jsonl
from cookbook.tutorial import execute
from data_tools import formats, road_vqa
from data_tools.worlds import road

CLIPS = 24
WHOLE = {"llava", "hf_sft", "saved", "samples_jsonl"}  # a question with choices and a written answer
SHORT = {"steps": 2, "generations": 4, "engine": "local", "control_questions": 4}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder in the guide's layout, of 24 clips: what a converter is given."""
    return road.build(tmp_path_factory.mktemp("own"), {"train": CLIPS}, seed=7)


def dataset(clips, folder, form):
    """Returns the data in a format: labels as they are for the guide's own, else a question a clip."""
    if form == "av_folder":
        return clips / "train"
    asked = {s.group: s for s in road_vqa.read(clips, "train", jobs.contract()) if len(s.options) == 4}
    formats.write(asked.values(), folder, form)
    return folder


def run(out, name, data, notebooks=("data", "sft", "rl", "evaluation"), **wanted):
    for notebook in notebooks:
        execute(ROOT / f"notebooks/{notebook}.ipynb", out, {"job": name, "data": str(data)} | SHORT | wanted)


def manifest(runs, step):
    return json.loads((runs / "mine" / step / "manifest.json").read_text())


def nothing_of_the_toy_road(runs):
    return not list(runs.rglob("*.mp4")) and not list(runs.rglob("world.json"))


@pytest.mark.parametrize("form", sorted(WHOLE))
def test_a_format_goes_from_data_to_report(runs, tmp_path, clips, form):
    data = dataset(clips, tmp_path.parent / "x", form)
    run(tmp_path / "out", "mine", data)
    sft, rl = manifest(runs, "sft"), manifest(runs, "rl")
    assert (sft["data"], sft["start"], rl["start"]) == (str(data), jobs.BASE, str(runs / "mine/sft"))
    assert (sft["steps"], rl["steps"], sft["contract"]) == (2, 2, rl["contract"])
    comparison = json.loads((runs / "mine/evaluation/comparison.json").read_text())
    assert list(comparison["models"]) == ["base", "sft", "rl"] and (runs / "mine/report.html").is_file()
    asked = {row["group"] for row in read_jsonl(runs / "mine/evaluation/predictions_rl.jsonl")}
    assert asked and not asked & {row["id"] for row in read_jsonl(runs / "mine/rl/generations.jsonl")}
    assert nothing_of_the_toy_road(runs)
