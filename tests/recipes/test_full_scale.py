"""The recipes at full scale, from their notebooks: ten rows in the official layout go through every cell.

Configuration, contract and commands are those of the published run; only the weights, the data and the number of steps
are small.
"""

import json
import tarfile

import nbformat
import official_layouts as made
import papermill
import pytest
from test_av_caption import label
from test_av_grounding import vehicle
from test_warehouse_vqa import row

from cookbook.config import Config
from cookbook.display.settings import validate
from cookbook.runs import ROOT


@pytest.fixture
def notebook(runs, tmp_path, silent, monkeypatch):
    """Runs a recipe at full scale on a sample. Returns what its code cells printed, in one text."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so little work is not worth a second thread's waiting

    def run(recipe: str, job: str, **parameters) -> str:
        wanted = {"scale": "full", "job": job, "base": str(silent), "engine": "local"} | parameters
        source, out = ROOT / f"notebooks/recipes/{recipe}.ipynb", tmp_path / f"{recipe}.ipynb"
        papermill.execute_notebook(source, out, wanted, progress_bar=False, kernel_name="python3")
        cells = [cell for cell in nbformat.read(out, 4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells)
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.get("name") == "stderr"]
        assert not list(runs.rglob("world.json")), "a toy world was built"
        return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)

    return run


def as_published(run, recipe: str, but: set[str]) -> None:
    """Asserts that a run's configuration is the published one, but for its places and the stated keys."""
    file, own = (Config.load(path).stated for path in (f"configs/recipes/{recipe}_sft.toml", run / "config.toml"))
    places = {"train.output_dir", "train.train_policy.dataset.name", "policy.model_name_or_path",
              "policy.parallelism.dp_shard_size", "custom.loader", "custom.passport"}  # fmt: skip
    assert {key for key in file.keys() | own.keys() if file.get(key) != own.get(key)} <= places | but


def test_warehouse_spatial(notebook, runs, tmp_path):
    answers = {"left_right": "left", "mcq": 1, "count": 2, "distance": 3.5}
    kinds = [kind for kind in answers for _ in range(3)][:10]
    for first, split, wanted in ((0, "train", kinds), (10, "val", list(answers))):
        rows = [row(f"{split}{i}", kind, answers[kind], image=f"{i:06d}.png") for i, kind in enumerate(wanted)]
        for i in range(len(rows)):
            made.picture(tmp_path / "data" / split / "images" / f"{i:06d}.png", first + i)
        made.json_file(tmp_path / "data" / f"{split}.json", rows)
    asked = [{key: row("t")[key] for key in ("id", "image", "conversations", "rle")}]
    made.json_file(tmp_path / "data/test.json", asked)  # without answers, as it is published
    pictures = sorted((tmp_path / "data/train/images").iterdir())
    with tarfile.open(tmp_path / "data/train/images/chunk_000.tar.gz", "w:gz") as archive:
        for picture in pictures:
            archive.add(picture, picture.name)
            picture.unlink()

    told = notebook("warehouse_spatial", "wh_sample", data=str(tmp_path / "data"), epochs=2)
    assert (
        "train 10 rows" in told and "val   4 rows" in told and "SFT: 2 of 2" in told and "These are the toy" not in told
    )
    assert "weighted (all kinds, SFT)" in told
    as_published(runs / "wh_sample/sft", "warehouse_spatial",
                 {"train.epoch", "train.train_batch_per_replica", "train.train_policy.mini_batch"})  # fmt: skip
    for model in ("base", "sft"):
        lines = (runs / f"wh_sample/evaluation/predictions_{model}.jsonl").read_text().splitlines()
        assert {json.loads(line)["id"] for line in lines} == {f"val{i}" for i in range(4)}


@pytest.fixture
def drives(tmp_path):
    """A folder of ten drives in the layout of the caption recipe, in three splits."""
    for first, split, count in ((0, "train", 6), (6, "validation", 2), (8, "test", 2)):
        labels = {f"{split}{i}": label(rule_violation=i % 2 == 0, driving_difficulty=1 + i % 4) for i in range(count)}
        for i, clip in enumerate(sorted((made.av(tmp_path / "data" / split, labels) / "videos").iterdir())):
            made.clip(clip, first + i)  # no clip stands in two splits
    return str(tmp_path / "data")


@pytest.mark.parametrize(
    "recipe",
    [
        "av_caption_vqa",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ("intelligent_transportation", "av_3d_grounding")),
    ],
)
def test_the_data_are_looked_at_first_and_the_error_names_the_parameter(notebook, recipe, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"DataError: parameter data: .*no_such_folder"):
        notebook(recipe, "gone", data=str(tmp_path / "no_such_folder"), base="nobody/nothing")


def test_a_base_that_nobody_has_is_named(notebook, drives, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        papermill.PapermillExecutionError, match="CheckpointError: parameter base: nobody/nothing: no folder"
    ):
        notebook("av_caption_vqa", "nobody", data=drives, base="nobody/nothing")


@pytest.mark.slow
def test_the_template(notebook, runs, drives):
    told = notebook("template", "template_sample", data=drives, questions=1)
    assert "6 training samples, 1 test samples" in told and "SFT: 1 of 1" in told
    lines = (runs / "template_sample/evaluation/predictions_sft.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["test0"]


@pytest.mark.slow
def test_av_caption_vqa(notebook, runs, drives):
    told = notebook("av_caption_vqa", "av_sample", data=drives, steps=2)
    assert "SFT: 2 of 2" in told and "These are the toy" not in told
    scored = {line.split()[0]: line.split()[-1] for line in told.splitlines() if line.endswith(("equal", "similarity"))}
    assert len(scored) == 15 and scored["safety_analysis"] == scored["weather"] == "similarity"
    assert scored["rule_violation"] == scored["driving_difficulty"] == "equal"
    as_published(runs / "av_sample/sft", "av_caption_vqa",
                 {"train.max_num_steps", "train.train_batch_per_replica", "train.train_policy.mini_batch"})  # fmt: skip
    for model in ("start", "sft"):
        lines = (runs / f"av_sample/evaluation/predictions_{model}.jsonl").read_text().splitlines()
        assert {json.loads(line)["id"] for line in lines} == {"test0", "test1"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["reason1", "reason2"])
def test_av_3d_grounding(notebook, runs, tmp_path, model):
    for number, (split, count) in enumerate((("train", 8), ("test", 2))):
        labels = {f"{split}{i}": [vehicle(_0=number - i), vehicle("truck", _2=30.5 + i)] for i in range(count)}
        made.grounding(tmp_path / "data" / split, labels, first=10 * number)
    told = notebook("av_3d_grounding", "g_sample", data=str(tmp_path / "data"), model=model, epochs=2)
    assert "{'train': 8, 'validation': 0, 'test': 2}" in told and "SFT: 2 of 2" in told and "These are the" not in told
    assert "mean_iou" in told and "0.102" in told
    recipe = "av_3d_grounding" + "_reason1" * (model == "reason1")
    as_published(runs / "g_sample/sft", recipe,
                 {"train.epoch", "train.train_batch_per_replica", "train.train_policy.mini_batch"})  # fmt: skip
    with pytest.raises(papermill.PapermillExecutionError, match=r"parameter data: .* has no test/ beside"):
        notebook("av_3d_grounding", "g_alone", data=str(tmp_path / "data/train"), model=model)


@pytest.mark.parametrize(
    ("recipe", "given", "words"),
    [
        ("av_3d_grounding", {"scale": "full"}, "-p scale full -p data FOLDER"),
        ("av_3d_grounding", {"data": "my_folder"}, "-p scale full -p data FOLDER"),
        ("warehouse_spatial", {"data": "my_folder"}, "goes with -p scale full"),
        ("av_caption_vqa", {"scale": "full"}, "-p scale full -p data FOLDER"),
        ("av_caption_vqa", {"data": "my_folder"}, "-p scale full -p data FOLDER"),
    ],
)
def test_data_without_their_scale_are_refused_in_one_sentence(recipe, given, words):
    cells = nbformat.read(ROOT / f"notebooks/recipes/{recipe}.ipynb", 4).cells
    with pytest.raises(ValueError, match=words):
        exec(next(cell.source for cell in cells if "FILES = " in cell.source), {"scale": "tiny", "data": ""} | given)


@pytest.mark.parametrize("recipe", ["warehouse_spatial", "av_caption_vqa", "av_3d_grounding", "template"])
def test_another_scale_is_refused_in_one_sentence(recipe):
    cells = nbformat.read(ROOT / f"notebooks/recipes/{recipe}.ipynb", 4).cells
    declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    with pytest.raises(ValueError, match="scale is 'half', but takes one of tiny, full"):
        validate(declared, {"scale": "half"})
