"""The report: one file that needs no other, says what the numbers say, and trusts no model's words."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cookbook import report
from cookbook.scores import compare
from data_tools import road_world
from data_tools.road_questions import Question, questions

ATTACK = "<script>alert('base')</script> & \"quotes\" </pre><img src=x>"
MANIFEST = {
    "seed": 7,
    "versions": {"torch": "2.11.0", "nested": {"deep": [1, 2]}},
    "note": "<b>bold</b>",
    "empty": {},
}
CURVE = [{"step": i, "train/loss_avg": 1 / i, "train/reward_mean": i / 20} for i in range(1, 21)]


class Page(HTMLParser):
    """What a browser would make of the report: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.words.append(" ")

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        """The text in reading order, all white space made plain."""
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


def predict(items, right, words: str) -> list[dict]:
    """Predictions that are right on the items numbered in `right`; the model writes `words` and an answer."""
    rows = []
    for i, (question, video) in enumerate(items):
        wrong = next(option for option in question.options if option != question.answer)
        answer = question.answer if i in right else wrong
        row = {"id": question.id, "group": question.clip, "task": question.task, "question": question.text}
        row |= {"kind": "mcq" if len(question.options) == 4 else "binary", "options": list(question.options)}
        row |= {"reference": question.answer, "output": f"{words} {answer}", "answer": answer}
        rows.append(row | {"correct": i in right, "well_formed": True, "video": str(video)})
    return rows


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[tuple[Question, Path]]:
    """All questions about six clips of the toy road world, each with its video."""
    world = road_world.build(tmp_path_factory.mktemp("world"), {"train": 2, "validation": 1, "test": 6}, seed=0)
    metas = sorted((world / "test/metas").glob("*.json"))
    videos = sorted((world / "test/videos").glob("*.mp4"))
    return [(q, video) for meta, video in zip(metas, videos) for q in questions(json.loads(meta.read_text()))]


@pytest.fixture(scope="module")
def run(items):
    """Predictions of three models, and their comparison. RL loses one item and never learns another."""
    everything, clips = set(range(len(items))), [question.clip for question, _ in items]
    lost, never = clips.index("test_00001"), clips.index("test_00002")
    predictions = {
        "base": predict(items, {0}, ATTACK),
        "sft": predict(items, (everything - {never}) - set(range(5, 15, 2)) | {lost}, "words of sft"),
        "rl": predict(items, everything - {lost, never}, "words of rl"),
    }
    return predictions, compare(predictions, [{"task": q.task, "reference": q.answer} for q, _ in items])


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> tuple[str, Page]:
    predictions, comparison = run
    path = tmp_path_factory.mktemp("run") / "new folder" / "report.html"
    assert report.write_report(path, comparison, CURVE, CURVE, predictions, MANIFEST) == path
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


# What stands in it


def test_the_answer_comes_first(run, written):
    _, comparison = run
    _, page = written
    answer, evidence = report.short_answer(comparison), report.evidence(comparison)
    assert next(tag for tag, _ in page.tags if tag in ("h1", "h2", "table", "img")) == "h1"
    body = page.text[page.text.index("Did it get better?") :]
    assert body.startswith(f"Did it get better? {answer} {evidence}")


def test_every_score_stands_in_the_table(run, written):
    _, comparison = run
    _, page = written
    for found in comparison["models"].values():
        for part in (found, *found["tasks"].values()):
            assert f"{100 * part['accuracy']:.1f}" in page.text
            assert "–".join(f"{100 * end:.1f}" for end in part["ci95"]) in page.text
    for task, level in comparison["tasks"].items():
        assert f"{task} {level['n']}" in page.text
    assert f"in the right format {comparison['n']} 100.0 100.0 100.0" in page.text


def test_examples_show_the_question_and_the_raw_words_of_every_model(run, written):
    predictions, _ = run
    _, page = written
    chosen = report.choose(report.sort_items(predictions), predictions["base"], 6)
    shown = [i for positions in chosen.values() for i in positions]
    assert len(shown) == 6
    for i in shown:
        for rows in predictions.values():
            assert rows[i]["output"] in page.text
            assert " ".join(rows[i]["question"].split()) in page.text
    strips = [attrs for tag, attrs in page.tags if tag == "img" and attrs["alt"].startswith("Frames")]
    assert len(strips) == 6


def test_losses_are_shown(run, written):
    _, page = written
    assert "RL is wrong where SFT was right (1 of" in page.text
    assert "RL is still wrong (1 of" in page.text


def test_the_manifest_is_flattened_into_rows(written):
    _, page = written
    for row in [
        "seed 7",
        "versions.torch 2.11.0",
        "versions.nested.deep [1, 2]",
        "note <b>bold</b>",
        "empty {}",
    ]:
        assert row in page.text


# What does not


def test_what_a_model_writes_is_text_and_never_markup(written):
    html, page = written
    assert ATTACK in page.text
    assert "<script" not in html
    assert "note <b>bold</b>" in page.text
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in page.tags if tag == "img")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_nothing_is_loaded_from_anywhere(written):
    html, page = written
    assert re.findall(r"https?://|@import|url\(", html) == []
    references = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(value.startswith("data:") for value in references)
    assert "default-src 'none'" in html


def test_it_is_small(written):
    html, _ = written
    assert len(html.encode()) < 3_000_000


def test_the_same_arguments_give_the_same_bytes(run, written, tmp_path):
    predictions, comparison = run
    again = report.write_report(tmp_path / "r.html", comparison, CURVE, CURVE, predictions, MANIFEST)
    assert again.read_text(encoding="utf-8") == written[0]


def test_what_is_missing_is_left_out_or_named(run, tmp_path):
    predictions, comparison = run
    gone = {name: [{**row, "video": "gone/clip.mp4"} for row in rows] for name, rows in predictions.items()}
    page = Page(report.write_report(tmp_path / "r.html", comparison, [], [], gone, {}).read_text(encoding="utf-8"))
    assert page.text.count("No picture: clip.mp4 cannot be read as a video") == 6
    assert [attrs["alt"][:4] for tag, attrs in page.tags if tag == "img"] == ["Bars"]
    assert "Training" not in page.text


def test_one_model_alone_has_a_report_too(run, tmp_path):
    predictions, _ = run
    only = {"base": predictions["base"]}
    comparison = compare(only, only["base"])
    page = Page(report.write_report(tmp_path / "r.html", comparison, [], [], only, {}).read_text(encoding="utf-8"))
    assert "One model, nothing to compare it with" in page.text
    assert "base is still wrong" in page.text


# The sentences


def made_up(*steps: tuple[float, float]) -> dict:
    """A comparison of base, sft, rl with these (difference, p) per step; accuracies start at 40 %."""
    names = ["base", "sft", "rl"][: len(steps) + 1]
    models, paired, accuracy = {}, {}, 0.4
    for i, name in enumerate(names):
        if i:
            difference, p = steps[i - 1]
            accuracy += difference
            paired[f"{name}_vs_{names[i - 1]}"] = {"difference": difference, "p": p}
        models[name] = {"accuracy": accuracy, "ci95": [accuracy - 0.05, accuracy + 0.05]}
    return {"n": 400, "models": models, "paired": paired}


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        ([(0.3, 1e-9), (0.05, 0.01)], "Yes, better at every step"),
        ([(0.3, 1e-9)], "Yes, better"),
        ([(0.3, 1e-9), (0.01, 0.6)], "Better with SFT; the rest is not certain"),
        ([(0.3, 1e-9), (-0.1, 0.001)], "Better with SFT, worse with RL"),
        ([(0.02, 0.4), (-0.1, 0.001)], "No, worse with RL"),
        ([(0.02, 0.4), (-0.01, 0.9)], "Not for certain"),
        ([(0.02, 0.05)], "Not for certain"),
    ],
)
def test_the_short_answer_counts_sure_steps_only(steps, answer):
    assert report.short_answer(made_up(*steps)) == answer


def test_the_evidence_is_one_sentence_of_computed_numbers():
    assert report.evidence(made_up((0.3, 1e-9), (-0.021, 0.31))) == (
        "Base answers 40.0 % of 400 held-out questions right (95 % interval 35.0–45.0); "
        "SFT 70.0 % (65.0–75.0), that is +30.0 points against base (p < 0.001); "
        "RL 67.9 % (62.9–72.9), that is −2.1 points against SFT (p = 0.310, which luck alone can explain)."
    )


# The choice of examples


def marks(**patterns: str) -> dict[str, list[dict]]:
    """Predictions from pictures of them, + right and - wrong; each item has its own clip, tasks alternate."""
    return {name: [{"correct": mark == "+", "group": f"clip_{i}", "task": "ab"[i % 2]}
                   for i, mark in enumerate(pattern)] for name, pattern in patterns.items()}  # fmt: skip


def test_every_item_has_one_heading_and_only_what_all_models_knew_has_none():
    predictions = marks(base="--++--++", sft="-+-+-+-+", rl="----++++")
    kinds = report.sort_items(predictions)
    assert kinds == {
        "RL is right where SFT was wrong": [4, 6],
        "SFT learned it, RL kept it": [5],
        "RL is wrong where SFT was right": [1, 3],
        "RL is still wrong": [0, 2],
    }


def test_headings_take_turns_so_that_losses_are_shown_beside_gains():
    predictions = marks(sft="-" * 20 + "+", rl="+" * 19 + "--")
    chosen = report.choose(report.sort_items(predictions), predictions["rl"], 6)
    assert list(map(len, chosen.values())) == [4, 0, 1, 1]


def test_new_clips_come_first_and_then_new_tasks():
    items = [{"group": "one", "task": "a"}, {"group": "one", "task": "b"}, {"group": "two", "task": "a"},
             {"group": "two", "task": "b"}, {"group": "three", "task": "a"}]  # fmt: skip
    assert report.choose({"gains": [0, 1, 2, 3, 4]}, items, 4) == {"gains": [0, 3, 4, 1]}
    assert report.choose({"gains": [0, 1, 2, 3, 4]}, items, 9) == {"gains": [0, 3, 4, 1, 2]}
    assert report.choose({"gains": [0, 1, 2, 3, 4]}, items, 0) == {"gains": []}


def test_a_loss_is_shown_though_its_clip_stands_under_the_gains():
    items = [{"group": "one", "task": "a"}, {"group": "one", "task": "b"}]
    assert report.choose({"gains": [0], "losses": [1]}, items, 6) == {"gains": [0], "losses": [1]}
