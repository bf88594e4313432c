"""Metrics of vehicles as boxes in space: read the JSON answer, match it with the truth, measure what both share.

Why: a published figure compares under its own rule only, here that of bbox_3d_evaluator.py in NVIDIA's recipe
av_3d_grounding. It is milder than its names: its IoU is axis-aligned (`rotated_iou` beside it turns boxes about the up
axis), `mean_iou` is that of matched pairs (in `iou_of_all` a missed vehicle counts 0), and its average precision knows
no recall, and no label that the truth has not. Files that cannot be read it leaves out; here they have no boxes.

A box is x, y, z of its middle, three sizes along these axes, roll, pitch, yaw: metres and radians, x right, y down, z
ahead of the camera. As in the evaluator pitch turns about x, then yaw about y, then roll about z.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from cookbook.evaluation.metrics.choices import Row

Box = tuple[str, list[float]]
Span = tuple[np.ndarray, np.ndarray]  # least and most along each axis
FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FAR = 1e6  # metres: nothing is as far
THRESHOLDS = [0.5 + 0.05 * i for i in range(10)]
NEVER = -1e6  # the worth of a pair that cannot be


def as_box(told: Any) -> Box:
    """Returns (label, nine numbers) of {"bbox_3d": […], "label": …}. Raises ValueError, which says what is wrong."""
    label, values = (told.get("label"), told.get("bbox_3d")) if isinstance(told, Mapping) else (None, None)
    if not isinstance(label, str) or not label.strip():
        raise ValueError("a vehicle has no label")
    if not isinstance(values, list) or len(values) != 9:
        found = f"{len(values)} values" if isinstance(values, list) else "no list"
        raise ValueError(f"bbox_3d of a {label} is {found}, not nine numbers")
    if odd := [v for v in values if isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) < FAR]:
        raise ValueError(f"bbox_3d of a {label} holds {str(odd[0])[:20]!r}, which is no number of metres or radians")
    if min(values[3:6]) <= 0:
        raise ValueError(f"a {label} has a size of {min(values[3:6])}; sizes are above 0")
    return label, values


def boxes(words: str | None) -> list[Box] | None:
    """Returns the boxes of an answer: a JSON list of {bbox_3d, label}, alone or as "annotations", also in a code block.

    None for anything else: words around it, a list that is cut off, one box that `as_box` refuses.
    """
    with suppress(ValueError, KeyError, RecursionError):
        told = json.loads(found[1] if (found := FENCE.fullmatch(words or "")) else words or "")
        told = told["annotations"] if isinstance(told, dict) else told
        return [as_box(one) for one in told] if isinstance(told, list) else None
    return None


def corners(values: Sequence[float]) -> np.ndarray:
    """Returns the eight corners (8, 3) of a box, as it is turned."""
    from scipy.spatial.transform import Rotation

    roll, pitch, yaw = values[6:9]
    return Rotation.from_euler("xyz", (pitch, yaw, roll)).apply(SIGNS * values[3:6] / 2) + values[:3]


def projected(values: Sequence[float], camera: Mapping[str, float]) -> Span | None:
    """Returns the columns and rows of the picture that the corners before the camera span; None where none is."""
    if not len(ahead := np.array([corner for corner in corners(values) if corner[2] > 0])):
        return None
    seen = ahead[:, :2] / ahead[:, 2:] * (camera["fx"], camera["fy"]) + (camera["cx"], camera["cy"])
    return seen.min(0), seen.max(0)


def shared(one: Span | None, other: Span | None) -> float:
    """Returns the IoU of two spans; 0 where there is none."""
    if one is None or other is None:
        return 0.0
    both = np.prod(np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None))
    union = np.prod(one[1] - one[0]) + np.prod(other[1] - other[0]) - both
    return float(both / union) if union > 0 else 0.0


def iou_3d(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the axis-aligned IoU of two boxes, whatever their angles: the published one."""
    middle, half = np.array([one[:3], other[:3]]), np.array([one[3:6], other[3:6]]) / 2
    return shared(*zip(middle - half, middle + half))


def iou_yaw(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the IoU of two boxes that are turned about the up axis by their yaw; roll and pitch are left out."""
    high = min(b[1] + b[4] / 2 for b in (one, other)) - max(b[1] - b[4] / 2 for b in (one, other))
    sides = np.array([1, -1, -1, 1]), np.array([1j, 1j, -1j, -1j])  # x and z, in order around the ground
    ground = [((sides[0] * b[3] + sides[1] * b[5]) / 2 * np.exp(-1j * b[8]) + b[0] + 1j * b[2]) for b in (one, other)]
    both = max(high, 0) * _area(*(shape.tolist() for shape in ground))
    return both / (np.prod(one[3:6]) + np.prod(other[3:6]) - both)


def _area(one: list[complex], other: list[complex]) -> float:
    """Returns the area that two convex shapes share: what each side of the one leaves of the other."""
    for a, b in pairwise([*other, other[0]]):
        left, before = [((b - a).conjugate() * (p - a)).imag for p in one], one
        one = []
        for (p, x), (q, y) in pairwise([*zip(before, left), *zip(before[:1], left)]):
            one += [p] * (x >= 0) + ([p + (q - p) * x / (x - y)] if x * y < 0 else [])
    return abs(sum((p.conjugate() * q).imag for p, q in pairwise([*one, *one[:1]]))) / 2


def _matched(worth: np.ndarray) -> list[tuple[int, int]]:
    """Returns (true, told) of the best pairs that can be: as many as possible, then those that share the most."""
    from scipy.optimize import linear_sum_assignment

    return [(i, j) for i, j in zip(*linear_sum_assignment(worth, maximize=True)) if worth[i, j] > NEVER]


def grade(row: Row) -> dict[str, list[float]]:
    """Returns what one picture adds to each figure; a figure is the mean of all that is added. Car_5 is a car.

    Raises ValueError for a reference that is no {"camera_params": …, "annotations": […]}.
    """
    true, told = boxes(row["reference"]), boxes(row["answer"]) or []
    if true is None or not isinstance(reference := json.loads(row["reference"]), dict):
        raise ValueError(f"{row['id']}: its reference is no camera with boxes")
    names = [np.array([label.lower().strip().split("_")[0] for label, _ in part]) for part in (true, told)]
    values = [[numbers for _, numbers in part] for part in (true, told)]
    spans = [[projected(numbers, reference["camera_params"]) for numbers in part] for part in values]

    def table(of: Callable[[Any, Any], float], pairs: Sequence[list]) -> np.ndarray:
        return np.array([[of(a, b) for b in pairs[1]] for a in pairs[0]]).reshape(len(true), len(told))

    space, flat = table(iou_3d, values), table(shared, spans)
    pairs = dict(_matched(np.where(names[0][:, None] == names[1], space, NEVER)))
    each = [float(space[i, pairs[i]]) if i in pairs else 0.0 for i in range(len(true))]
    return {
        "mean_iou": [each[i] for i in pairs],
        "iou_of_all": each,
        "rotated_iou": [iou_yaw(values[0][i], values[1][j]) for i, j in pairs.items()],
        "iou_accuracy": [float(value >= 0.5) for value in each],
        "label_accuracy": [float(i in pairs) for i in range(len(true))],
        "ap_2d": [_precision(flat, *names)],
        "ap_3d": [_precision(space, *names)],
    }


def _precision(worth: np.ndarray, true: np.ndarray, told: np.ndarray) -> float:
    """Returns the share of boxes told that match, a mean over THRESHOLDS and the labels of the truth."""
    parts = [worth[true == label][:, told == label] for label in set(true)]
    return fmean([len(_matched(np.where(part >= least, part, NEVER))) / max(part.shape[1], 1)
                  for part in parts for least in THRESHOLDS] or [0.0])  # fmt: skip


def all_found(told: str, wanted: str) -> bool:
    """Returns whether each vehicle is told, with its label and an IoU of 0.5 or more, and no other one."""
    found = grade({"id": "", "answer": told, "reference": wanted})["iou_accuracy"]
    return all(found) and len(boxes(told) or []) == len(found)


def detections(rows: Sequence[Row]) -> dict:
    """Returns n, unread and the figures of `grade`, the published ones among them: mean_iou, iou_accuracy, ap_3d, …"""
    graded = [grade(row) for row in rows]
    means = {name: fmean([v for part in graded for v in part[name]] or [0.0]) for name in graded[0]}
    return {"n": len(rows), "unread": fmean([boxes(row["answer"]) is None for row in rows]), **means}
