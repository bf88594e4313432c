"""Metrics of boxes in space: by hand, against every possible pairing and points that are counted, and odd answers."""

import json
import math
from itertools import permutations
from statistics import fmean

import numpy as np
import pytest

from cookbook.evaluation.metrics import measure, right
from cookbook.evaluation.metrics.boxes import boxes, corners, detections, grade, iou_3d, iou_yaw, projected, shared
from cookbook.evaluation.published import Published, card

CAMERA = {"fx": 100.0, "fy": 90.0, "cx": 56.0, "cy": 50.0}
CAR, TRUCK = [0, 1, 10, 2, 2, 4, 0, 0, 0], [3, 0.5, 20, 2, 3, 6, 0, 0, 0]


def told(*vehicles, key=None):
    listed = [{"bbox_3d": list(values), "label": label} for label, values in vehicles]
    return json.dumps({"camera_params": CAMERA, "annotations": listed} if key else listed)


def row(true, answer, name="a"):
    words = answer if isinstance(answer, str | None) else told(*answer)
    return {"id": name, "group": name, "kind": "boxes", "reference": told(*true, key=True), "answer": words}


def moved(values, **by):
    return [v + by.get(name, 0) for name, v in zip(("x", "y", "z", "w", "h", "l", "roll", "pitch", "yaw"), values)]


# Two boxes


def test_iou_by_hand():
    assert iou_3d(CAR, CAR) == 1 and iou_3d(CAR, TRUCK) == 0
    assert iou_3d(CAR, moved(CAR, x=1)) == pytest.approx(8 / (16 + 16 - 8))  # half of 2 × 2 × 4 is shared
    assert iou_3d(CAR, moved(CAR, y=2)) == 0  # they touch
    assert iou_3d(CAR, moved(CAR, l=4)) == pytest.approx(16 / 32)  # one inside the other
    assert iou_3d(CAR, moved(CAR, yaw=1)) == 1  # axis-aligned: how it is turned does not count


def test_a_turned_box_by_hand():
    assert iou_yaw(CAR, moved(CAR, yaw=math.pi / 2)) == pytest.approx(8 / (16 + 16 - 8))  # 2 × 4 over 4 × 2: 2 × 2
    square = [0, 0, 5, 2, 2, 2, 0, 0, 0]
    eight = 8 * (math.sqrt(2) - 1)  # a square over itself, turned by 45°: an octagon of 2 × 2 × this / 4
    assert iou_yaw(square, moved(square, yaw=math.pi / 4)) == pytest.approx(2 * eight / (16 - 2 * eight))
    assert iou_yaw(CAR, moved(CAR, yaw=math.pi)) == pytest.approx(1) and iou_yaw(CAR, moved(CAR, y=2)) == 0


def test_random_boxes_share_what_counted_points_say():
    """200,000 points: inside a box is what its own axes say, after turning back."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (200_000, 3))

    def inside(b):
        p = points - b[:3]
        x, z = p[:, 0] * math.cos(b[8]) - p[:, 2] * math.sin(b[8]), p[:, 0] * math.sin(b[8]) + p[:, 2] * math.cos(b[8])
        return (abs(np.stack([x, p[:, 1], z], 1)) <= np.array(b[3:6]) / 2).all(1)

    for turned, of in ((3.2, iou_yaw), (0, iou_3d), (0, iou_yaw)):
        for _ in range(12):
            a, b = ([*rng.uniform(-1, 1, 3), *rng.uniform(1, 4, 3), 0, 0, rng.uniform(-1, 1) * turned] for _ in "ab")
            both, any_ = (inside(a) & inside(b)).sum(), (inside(a) | inside(b)).sum()
            assert of(a, b) == pytest.approx(both / any_, abs=0.02)


def test_corners_turn_as_published_and_are_seen_by_the_pinhole():
    """One corner by hand, through the three turns in their order: pitch about x, yaw about y, roll about z."""
    assert sorted(corners(CAR)[:, 2].tolist()) == [8] * 4 + [12] * 4
    quarter = math.pi / 2
    turned = corners([0, 0, 0, 2, 4, 6, quarter, quarter, quarter])  # (1, 2, 3) → (1, -3, 2) → (2, -3, -1) → (3, 2, -1)
    assert any(np.allclose(corner, (3, 2, -1)) for corner in turned)
    least, most = projected(CAR, CAMERA)  # the near side, at 8 m, is the widest: x ±1, y from 0 to 2
    assert least == pytest.approx([56 - 12.5, 50]) and most == pytest.approx([56 + 12.5, 50 + 22.5])
    assert projected(moved(CAR, z=-20), CAMERA) is None and shared(None, (least, most)) == 0
    assert shared((least, most), (least + np.array([12.5, 0]), most + np.array([12.5, 0]))) == pytest.approx(1 / 3)


# Pictures


def test_figures_of_one_picture_by_hand():
    found = grade(row([("car", CAR), ("truck", TRUCK)], [("Car_5", moved(CAR, l=1)), ("car", TRUCK)]))
    assert found["mean_iou"] == [pytest.approx(0.8)] and found["iou_of_all"] == [pytest.approx(0.8), 0]
    assert found["label_accuracy"] == [1, 0] and found["iou_accuracy"] == [1, 0]
    # of two cars told one matches, up to an IoU of 0.80, 7 of 10 thresholds; no truck is told: (7/10 · 1/2 + 0) / 2
    assert found["ap_3d"] == [pytest.approx(0.175)]


def test_what_the_published_figures_do_not_see():
    car, extra = ("car", CAR), ("bus", TRUCK)
    assert detections([row([car], [car, extra])])["ap_3d"] == 1  # a label that the truth has not costs nothing
    found = detections([row([car, ("car", TRUCK)], [car])])
    assert (found["mean_iou"], found["ap_3d"]) == (1, 1)  # nor does a vehicle that is missed
    assert (found["iou_of_all"], found["label_accuracy"]) == (0.5, 0.5)
    found = detections([row([car], [("car", moved(CAR, yaw=math.pi / 2))])])
    assert (found["mean_iou"], found["rotated_iou"]) == (1, pytest.approx(1 / 3))


def test_several_pictures_are_one_mean_over_vehicles_and_over_pictures():
    car = ("car", CAR)
    rows = [row([car, car], [car, car]), row([car], [("car", moved(CAR, l=4))], "b"), row([car], "no JSON", "c")]
    found = measure(rows)["boxes"]
    assert found["mean_iou"] == pytest.approx((1 + 1 + 0.5) / 3) and found["iou_of_all"] == pytest.approx(2.5 / 4)
    assert found["ap_3d"] == pytest.approx((1 + 0.1 + 0) / 3)  # 0.5 reaches one threshold of ten
    assert (found["n"], found["unread"]) == (3, pytest.approx(1 / 3))
    assert measure([row([car], None)])["boxes"]["mean_iou"] == 0
    empty = detections([row([], [])])
    assert (empty["unread"], empty["ap_3d"], empty["label_accuracy"]) == (0, 0, 0)


def test_the_pairing_is_the_best_of_all_that_could_be():
    """Against every way to pair: as many pairs as possible, then the largest sum; and at each threshold, the most."""
    rng = np.random.default_rng(1)
    names = ["car", "truck"]
    for _ in range(60):
        sizes = rng.integers(1, 5, 2)
        near = [[(str(rng.choice(names)), moved(CAR, x=rng.normal(0, 0.7), l=rng.uniform(-1, 1))) for _ in range(n)]
                for n in sizes]  # fmt: skip
        found = grade(row(*near))
        best, most = (0, 0.0), {}
        for order in permutations([*range(sizes[1]), *[None] * sizes[0]], int(sizes[0])):
            pairs = [(a, near[1][j]) for a, j in zip(near[0], order) if j is not None and a[0] == near[1][j][0]]
            worth = [iou_3d(a[1], b[1]) for a, b in pairs]
            best = max(best, (len(pairs), round(sum(worth), 9)))
            for label in {a for a, _ in near[0]}:
                for least in (0.5 + 0.05 * i for i in range(10)):
                    hits = sum(w >= least for w, (a, _) in zip(worth, pairs) if a[0] == label)
                    most[label, least] = max(most.get((label, least), 0), hits)
        assert (len(found["mean_iou"]), round(sum(found["mean_iou"]), 9)) == best
        share = [hits / max(1, sum(b == label for b, _ in near[1])) for (label, _), hits in most.items()]
        assert found["ap_3d"] == [pytest.approx(fmean(share))]


# Answers


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", " ```\n{}\n``` \n", '{{"annotations": {}}}'])
def test_an_answer_is_a_list_alone_or_in_a_code_block(form):
    assert boxes(form.replace("{{", "{").replace("}}", "}").replace("{}", told(("car", CAR)))) == [("car", CAR)]
    assert boxes(form.replace("{{", "{").replace("}}", "}").replace("{}", "[]")) == []


@pytest.mark.parametrize(
    "words",
    [
        None, "", "No vehicles.", "here: []", "[] and more", '{"label": "car"}', "[[1]]", "3", "[" * 9000,
        '[{"label": "car"}]',
        told(("car", CAR))[:-3], told(("car", CAR[:8])), told(("", CAR)), told(("car", moved(CAR, w=-2))),
        told(("car", [math.nan, *CAR[1:]])), told(("car", [math.inf, *CAR[1:]])), told(("car", [True, *CAR[1:]])),
        told(("car", ["0", *CAR[1:]])), told(("car", [None, *CAR[1:]])), told(("car", [10**400, *CAR[1:]])),
    ],
)  # fmt: skip
def test_all_else_is_no_answer(words):
    assert boxes(words) is None
    assert not right("boxes", words, told(("car", CAR), key=True))


def test_right_is_every_vehicle_and_no_other():
    wanted = told(("car", CAR), ("truck", TRUCK), key=True)
    both = [("truck", TRUCK), ("car", moved(CAR, l=1))]
    assert right("boxes", told(*both), wanted) and right("boxes", "[]", told(key=True))
    for wrong in (both[:1], [*both, both[0]], [("car", TRUCK), both[1]], [both[0], ("car", moved(CAR, l=5))]):
        assert not right("boxes", told(*wrong), wanted)
    for reference in ("none", "[]"):
        with pytest.raises(ValueError, match="a: its reference is no camera with boxes"):
            grade(row([], []) | {"reference": reference})


def test_a_card_holds_the_figures_with_intervals_over_pictures():
    rows = [row([("car", CAR)], [("car", CAR)] if i % 2 else "?", f"p{i}") for i in range(40)]
    lines = card(
        [Published("label_accuracy", 0.649, n=0), Published("ap_2d", 0.198, n=0), Published("mean_iou", 1.0, n=0)], rows
    )
    shown = str(lines)
    assert "0.500" in shown and "agrees" in shown.splitlines()[1] and "above" in shown.splitlines()[2]
    assert "agrees" in shown.splitlines()[3]
    assert card([Published("mean_iou", 0.1, n=0)], [row([("car", CAR)], "?")])
