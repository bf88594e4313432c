"""Loader of vehicles as boxes in space: an image, its camera and its boxes become one question and one JSON answer.

Why: MADS, which the published recipe trains on, is not public, but its layout is: `meta.json` names for each image of
`images/` a file of `text/` with `camera_params` and `annotations`. Real files lack images and labels and hold NaN; each
costs its own image only, and is named.

    cosmos-rl --config configs/recipes/av_3d_grounding_sft.toml data_tools/av_grounding.py
    python data_tools/av_grounding.py --config configs/recipes/av_3d_grounding_sft.toml --check

`dataset.name` is a folder with meta.json, or one of folders train, validation, test with one in each. Nothing is held
out: neighbouring images of one drive look alike, and the layout does not say which belong together.

`[custom] decimals` rounds the numbers of the answer. Files give fifteen digits, of which a picture shows two or three:
the rest is noise that costs a token each. The reference that evaluation compares with is not rounded.
"""

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from cookbook.config import Config
from cookbook.data.samples import DataError, Sample, message, text
from cookbook.evaluation.metrics.boxes import Box, as_box
from cookbook.runs import ROOT
from data_tools import loading
from data_tools.formats.source import Problems, inside, parse_json, read_rows, read_text, safe_id, shown, skipping
from data_tools.loading.engine import serve

OPTIONS = {"decimals": int, "question": str}
META, DECIMALS = "meta.json", 2  # centimetres
NAMES = ("text", "conversation")  # of the annotations' file in an entry: the published page has both
CAMERA = ("fx", "fy", "cx", "cy")
QUESTION = (
    "Which vehicles does the picture show, and where are they? Answer with a JSON list, for each vehicle "
    '{"bbox_3d":[x,y,z,x_size,y_size,z_size,roll,pitch,yaw],"label":"kind of vehicle"}: its middle and sizes in metres '
    "with x to the right, y down and z ahead of the camera, its angles in radians."
)


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …, "test": …}, those that are there. Raises DataError for what is no use."""
    stated, problems = loading.custom(config, **OPTIONS), []
    options = {key: stated[key] for key in OPTIONS if key in stated}
    place = ROOT / config[f"{loading.TRAIN}.name"]
    apart = (place / "train").is_dir()
    found = {
        split: read(place / split if apart else place, problems, **options)
        for split in ("train", "validation", "test")
        if split == "train" or (apart and (place / split).is_dir())
    }
    return loading.finish(config, place, found.pop("train"), found.pop("validation", []), problems, **found)


def read(
    folder: Path, problems: Problems | None = None, decimals: int = DECIMALS, question: str = QUESTION
) -> list[Sample]:
    """Returns one sample an image; its reference is what the file says, with the camera, its target has rounded boxes.

    What cannot be used goes into `problems` as (entry, reason); without that list it raises DataError.
    """
    samples = []
    for name, entry in read_rows(folder / META, problems):
        with skipping(problems, name):
            if not isinstance(entry, Mapping) or not (file := next((entry[n] for n in NAMES if n in entry), None)):
                raise DataError(f"names no file of annotations; an entry has id, media and {' or '.join(NAMES)}")
            image, own = inside(folder, entry.get("media")), safe_id(entry.get("id"))
            with skipping(None, str(file)):
                camera, boxes = camera_and_boxes(parse_json(read_text(inside(folder, file))))
                target = written(boxes, decimals)
            asked = message("user", {"type": "image", "image": str(image)}, text(question))
            true = {"camera_params": camera, "annotations": [{"bbox_3d": v, "label": label} for label, v in boxes]}
            turns = (asked, message("assistant", text(target)))
            reference = json.dumps(true)
            samples.append(Sample(own, own, turns, reference, task="grounding", extra={"kind": "boxes"}))
    return samples


def camera_and_boxes(found: Any) -> tuple[dict[str, float], list[Box]]:
    """Returns (camera, boxes) of a file of annotations. Raises DataError for what is none."""
    camera, listed = (found.get(k) for k in ("camera_params", "annotations")) if isinstance(found, dict) else (0, 0)
    if not isinstance(listed, list):
        raise DataError("has no list of annotations")
    lacks = [k for k in CAMERA if not isinstance(camera, dict) or not _fits(k, camera.get(k))]
    if lacks:
        raise DataError(f"camera_params has no {' and no '.join(lacks)} that a camera can have")
    try:
        return {key: camera[key] for key in CAMERA}, list(map(as_box, listed))
    except ValueError as error:
        raise DataError(str(error)) from None


def _fits(key: str, value: Any) -> bool:
    least = 0 if key in ("fx", "fy") else -inf  # the middle of a cut picture may lie outside
    return isinstance(value, int | float) and not isinstance(value, bool) and least < value < inf


def written(boxes: list[Box], decimals: int = DECIMALS) -> str:
    """Returns the target: the boxes as JSON, each number with so many decimals. Raises DataError for a size of 0."""
    rounded = [[round(v, decimals or None) + 0 for v in values] for _, values in boxes]
    if flat := next((label for (label, _), values in zip(boxes, rounded) if min(values[3:6]) <= 0), None):
        raise DataError(f"a size of a {shown(flat)} is 0 with {decimals} decimals; raise custom.decimals")
    told = [{"bbox_3d": values, "label": label} for (label, _), values in zip(boxes, rounded)]
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    serve(load)
