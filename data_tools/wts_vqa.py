"""Loader of WTS environment questions: multiple choice about a junction, seen by its overhead cameras.

Why: the published recipe first turns the folder into one LLaVA file, which then has to be kept in step with it. This
reads the folder as it is downloaded, keeps all cameras of one scene in one split, and tells what it leaves out.

    WTS/annotations/vqa/{train,val}/[normal_trimmed/]SCENE/environment/SCENE.json
    WTS/videos/{train,val}/[normal_trimmed/]SCENE/overhead_view/CAMERA.mp4

    cosmos-rl --config configs/recipes/intelligent_transportation_sft.toml data_tools/wts_vqa.py
    python data_tools/wts_vqa.py --config configs/recipes/intelligent_transportation_sft.toml --check

`val` is the test split; where `[custom] validate` is true, it is the validation of the training instead.
The LLaVA file of the recipe is read by `data_tools/llava_sft.py`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cookbook.config import Config
from cookbook.data.samples import DataError, Sample, message, text, video
from cookbook.runs import ROOT
from data_tools import loading
from data_tools.formats.source import Problems, inside, parse_json, read_text, shown, skipping
from data_tools.loading.engine import serve

OPTIONS = {"validate": bool}
TRIMMED = "normal_trimmed"  # scenes without an accident, in a folder of their own
LETTERS = ("a", "b", "c", "d")
NEAR = 0  # for the passport: clips of one fixed camera look alike on any day, so looks do not tell a leak
LISTS = ("overhead_videos", "environment")
# what a question is about, by its first word that stands here; for scores by kind
TASKS = {"signal": "signal", "light": "signal", "weather": "weather", "pedestrian": "pedestrians", "vehicle": "vehicle",
         "road": "road", "lane": "road", "sidewalk": "road", "surface": "road"}  # fmt: skip


def scenes(root: Path, split: str) -> Iterator[tuple[str, Path]]:
    """Yields (scene, its file of questions), trimmed scenes last. Raises DataError where the split is not there."""
    home = root / "annotations" / "vqa" / split
    if not home.is_dir():
        raise DataError(f"{root}: has no annotations/vqa/{split}; name the folder that holds annotations/ and videos/")
    for folder in (home, home / TRIMMED):
        for scene in sorted(p for p in folder.glob("*") if p.is_dir() and p.name != TRIMMED):
            yield scene.relative_to(home).as_posix(), scene / "environment" / f"{scene.name}.json"


def task_of(question: str) -> str:
    """Returns what a question is about, "other" where no word tells."""
    words = question.lower()
    found = [(words.index(word), task) for word, task in TASKS.items() if word in words]
    return min(found)[1] if found else "other"


def read_question(row: Any) -> tuple[str, tuple[str, ...], str]:
    """Returns (question with its options line by line, letters, right letter). Raises DataError for half a question."""
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise DataError("has no question")
    given = {key.upper(): str(row[key]).strip() for key in LETTERS if row.get(key) not in (None, "")}
    right = str(row.get("correct", "")).strip().upper()
    if len(given) < 2 or list(given) != [key.upper() for key in LETTERS[: len(given)]]:
        raise DataError(f"its options are {shown(', '.join(given) or 'none')}; they are a, b, … in order, two at least")
    if right not in given:
        raise DataError(f"correct is {shown(repr(row.get('correct')))}, none of {', '.join(given)}")
    return "\n".join([row["question"].strip(), *(f"{k}: {v}" for k, v in given.items())]), tuple(given), right


def read(root: Path, split: str = "train", problems: Problems | None = None) -> list[Sample]:
    """Returns one sample a question and camera; what cannot be used goes into `problems` as (name, reason)."""
    samples = []
    for scene, file in scenes(Path(root), split):
        with skipping(problems, f"{split}/{scene}"):
            samples += _scene(Path(root) / "videos" / split, scene, _entry(file), problems)
    return samples


def _entry(file: Path) -> Mapping[str, Any]:
    found = parse_json(read_text(file))
    entry = found[0] if isinstance(found, list) and found else found
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), list) for key in LISTS):
        raise DataError("is not a list of one entry with overhead_videos and environment")
    return entry


def _scene(videos: Path, scene: str, entry: Mapping[str, Any], problems: Problems | None) -> list[Sample]:
    samples, clips = [], []
    for name in entry["overhead_videos"]:
        with skipping(problems, f"{scene}, {shown(name)}"):
            if not isinstance(name, str):
                raise DataError("the name of the video is not a text")
            clips.append(inside(videos, f"{scene}/overhead_view/{name}"))
    extra = {"wts_id": entry["id"]} if isinstance(entry.get("id"), str | int) else {}
    for number, row in enumerate(entry["environment"]):
        with skipping(problems, f"{scene}, question {number}"):
            words, options, right = read_question(row)
            known = {"answer": right, "options": options, "label": right, "task": task_of(row["question"])}
            for clip in clips:
                turns = (message("user", video(clip), text(words)), message("assistant", text(right)))
                samples.append(Sample(f"{clip.stem}_{number}", scene, turns, extra=extra, **known))
    return samples


def load(config: Config) -> loading.Splits:
    """Returns train, validation, and val as test where it is there. Raises DataError for what cannot be used."""
    validate = loading.custom(config, **OPTIONS).get("validate")
    root, problems = ROOT / config[f"{loading.TRAIN}.name"], []
    train = read(root, "train", problems)
    held = read(root, "val", problems) if validate or (root / "annotations" / "vqa" / "val").is_dir() else []
    validation, test = (held, []) if validate else ([], held)
    return loading.finish(config, root, train, validation, problems, test)


if __name__ == "__main__":
    serve(load)
