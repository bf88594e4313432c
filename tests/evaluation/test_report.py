"""The report: one file that needs no other, says what the numbers say, and trusts no model's words."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find
from PIL import Image

from cookbook import pipeline, tutorial
from cookbook.display import plots
from cookbook.evaluation import findings, report
from cookbook.evaluation.scores import compare
from data_tools import road_vqa
from data_tools.worlds import road
from data_tools.worlds.road_questions import Question, questions

ATTACK = "<script>alert('base')</script> & \"quotes\" </pre><img src=x>"
MANIFEST = {
    "seed": 7,
    "versions": {"torch": "2.11.0", "nested": {"deep": [1, 2]}},
    "note": "<b>bold</b>",
    "empty": {},
}
TEXTS = {"Lineage": "base: <tiny>\n└─ SFT", "config.toml": "[train]\nepoch = 3"}
CURVE = [{"step": i, "train/loss_avg": 1 / i, "train/reward_mean": i / 20} for i in range(1, 21)]
WILD = [row | {"train/kl_loss_avg": 5.0, "optimizer/grad_norm": 1.0} for row in CURVE]


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
    world = road.build(tmp_path_factory.mktemp("world"), {"train": 2, "validation": 1, "test": 6}, seed=0)
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
def controls(run) -> dict[str, list[dict]]:
    """RL without its clip: half right, but for the task "signal", which it answers as well as before."""
    rows = run[0]["rl"]
    blind = [{**row, "correct": i % 2 == 0 or row["task"] == "signal"} for i, row in enumerate(rows)]
    turned = [
        {**row, "id": f"{row['id']}#turn{by}", "reference": wanted, "answer": "A", "correct": wanted == "A"}
        for row in rows
        if row["kind"] == "mcq"
        for by, wanted in enumerate("ABCD")
    ]
    return {"blind": blind, "turned options": turned}


@pytest.fixture(scope="module")
def path(run, controls, tmp_path_factory) -> Path:
    """The report with all its parts."""
    predictions, comparison = run
    path = tmp_path_factory.mktemp("run") / "new folder" / "report.html"
    extra = {"controls": controls, "texts": TEXTS, "notes": ["A <note>."]}
    assert report.write_report(path, comparison, CURVE, WILD, predictions, MANIFEST, **extra) == path
    return path


@pytest.fixture(scope="module")
def written(path) -> tuple[str, Page]:
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
    redrawn = [report.span(found["ci95_clustered"]) for found in comparison["models"].values()]
    assert " ".join(["all, whole clips redrawn 6 clips", *redrawn]) in page.text
    assert f"no answer read {comparison['n']} 0.0 0.0 0.0" in page.text
    assert f"could not be asked {comparison['n']} 0 0 0" in page.text
    assert "A <note>." in page.text


def test_a_step_stands_with_its_size_and_the_questions_it_would_need(run, written):
    _, comparison = run
    for found in comparison["paired"].values():
        assert f"{found['g']:+.2f}".replace("-", "−") + f" {found['needed']}" in written[1].text


def test_what_was_lost_is_named_item_by_item(run, written):
    predictions, comparison = run
    lost = [a for a, b in zip(predictions["sft"], predictions["rl"]) if a["correct"] and not b["correct"]]
    assert f"{len(lost)} of {comparison['n']} questions that RL lost" in written[1].text
    assert all(f"{row['id']} {row['reference']} {row['answer']}" in written[1].text for row in lost)


def test_controls_stand_beside_guessing(run, controls, written):
    text = written[1].text
    assert "Does RL look at the clip?" in text
    for found in findings.against_controls(run[0]["rl"], controls, run[1])["blind"].values():
        assert f"{report.hundred(found['accuracy'])} {report.span(found['ci95'])}" in text
    asked = len(run[0]["rl"])
    assert re.search(rf"blind: \d+\.\d % falls to \d+\.\d % on {asked} questions\.", text)
    assert "25.0 % of the turns are right, and 0.0 % of" in text


def test_the_confusion_counts_every_answer(run, written):
    predictions, _ = run
    rows = [row for row in predictions["sft"] if row["kind"] == "binary"]
    counts = [
        sum((row["reference"], row["answer"]) == pair for row in rows)
        for pair in [("No", "No"), ("No", "Yes"), ("Yes", "No"), ("Yes", "Yes")]
    ]
    assert "right No Yes (none) No {} {} 0 Yes {} {} 0".format(*counts) in written[1].text


def test_alarms_of_the_run_stand_in_it(run, written, tmp_path):
    assert "kl" in written[1].text[written[1].text.index("Alarms of the RL run") :].lower()[:60]
    predictions, comparison = run
    calm = report.write_report(tmp_path / "r.html", comparison, [], CURVE[:5], predictions, {})
    assert "None went off in 5 steps." in Page(calm.read_text(encoding="utf-8")).text


def test_texts_stand_as_they_are_and_origins_beside_them(run, written):
    html, page = written
    _, comparison = run
    assert "base: <tiny> └─ SFT" in page.text and "[train] epoch = 3" in page.text
    assert "└─ SFT</pre>" in html and "rl" in comparison["contracts"]
    assert "model weights contract decoding base not known" in page.text


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
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_nothing_is_loaded_from_anywhere(written):
    html, page = written
    assert re.findall(r"https?://|@import|url\(", html) == []
    references = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(value.startswith(("data:", "#")) for value in references)
    assert "default-src 'none'" in html


def test_it_is_small(written):
    html, _ = written
    assert len(html.encode()) < 3_000_000


def test_filmed_clips_keep_it_small_too(run, monkeypatch, tmp_path):
    predictions, comparison = run
    noise = np.random.default_rng(0).integers(0, 256, (128, 1600, 3), dtype=np.uint8)  # nothing is harder to pack
    monkeypatch.setattr(plots, "frame_strip", lambda video, fps: Image.fromarray(noise))
    path = report.write_report(tmp_path / "r.html", comparison, CURVE, WILD, predictions, MANIFEST, clips=2)
    assert path.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 2
    assert path.stat().st_size < 1_200_000  # and so six of them leave it below 3 MB


@pytest.mark.skipif(find() is None, reason="no Chromium here (Debian: apt install chromium)")
def test_in_a_browser_it_is_quiet_and_fits_a_phone(path):
    with Browser() as browser:
        for width, dark in ((1280, False), (390, True)):
            seen = browser.open(path, width, dark)
            assert (seen.console, seen.requests) == ([], [])
            assert seen.overflow <= 0 and seen.broken == 0
            light = np.asarray(Image.open(io.BytesIO(seen.picture)).convert("L")).mean()
            assert light < 100 if dark else light > 150
        assert browser.printed().startswith(b"%PDF")


@pytest.mark.skipif(find() is None, reason="no Chromium here (Debian: apt install chromium)")
def test_the_browser_sees_what_a_report_must_not_have(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="gone.png"><div style="width: 2000px">wide</div><script>console.error("oh")</script>')
    with Browser() as browser:
        seen = browser.open(bad, 390)
    assert any("oh" in said for said in seen.console)
    assert seen.requests == [(tmp_path / "gone.png").as_uri()]
    assert seen.overflow > 1000 and seen.broken == 1


def test_the_same_arguments_give_the_same_bytes(run, controls, written, tmp_path):
    predictions, comparison = run
    extra = {"controls": controls, "texts": TEXTS, "notes": ["A <note>."]}
    again = report.write_report(tmp_path / "r.html", comparison, CURVE, WILD, predictions, MANIFEST, **extra)
    assert again.read_text(encoding="utf-8") == written[0]


def test_what_is_missing_is_left_out_or_named(run, tmp_path):
    predictions, comparison = run
    gone = {name: [{**row, "video": "gone/clip.mp4"} for row in rows] for name, rows in predictions.items()}
    page = Page(report.write_report(tmp_path / "r.html", comparison, [], [], gone, {}).read_text(encoding="utf-8"))
    assert page.text.count("No picture: clip.mp4 cannot be read as a video") == 6
    assert [attrs["alt"][:4] for tag, attrs in page.tags if tag == "img"] == ["Bars"]
    assert not any(heading in page.text for heading in ("Training", "look at the clip", "Alarms"))


def test_one_model_alone_has_a_report_too(run, tmp_path):
    predictions, _ = run
    only = {"base": predictions["base"]}
    comparison = compare(only, only["base"])
    page = Page(report.write_report(tmp_path / "r.html", comparison, [], [], only, {}).read_text(encoding="utf-8"))
    assert "One model, nothing to compare it with" in page.text
    assert "base is still wrong" in page.text
    assert "What got worse" not in page.text


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


def asked(task: str, right: int, n: int) -> list[dict]:
    return [{"id": f"{task}-{i}", "task": task, "group": str(i), "correct": i < right} for i in range(n)]


LEVELS = {"tasks": {task: {"chance": 0.5, "majority": 0.4} for task in ("sees", "reads", "luck")}}


def test_a_control_is_held_against_guessing_task_by_task():
    own = [*asked("sees", 36, 40), *asked("reads", 36, 40), *asked("luck", 22, 40)]
    blind = [*asked("sees", 20, 40), *asked("reads", 34, 40), *asked("luck", 22, 40)]
    found = findings.against_controls(own, {"blind": blind}, LEVELS)["blind"]
    assert {task: part["verdict"] for task, part in found.items() if task != "all"} == {
        "sees": "guessing",
        "reads": "above guessing",
        "luck": "never above",
    }
    assert found["sees"]["own"] == 0.9 and found["sees"]["accuracy"] == 0.5 and found["sees"]["level"] == 0.5
    assert findings.control_words("blind", found) == (
        "blind: 78.3 % falls to 63.3 % on 120 questions. Not to guessing: reads (85.0 % where guessing earns 50.0 %). "
        "There the words alone give the answer away. Says nothing for luck: not surely above guessing with the own "
        "clip either."
    )


def test_a_control_that_does_not_fall_is_not_said_to():
    own = asked("sees", 30, 40)
    found = findings.against_controls(own, {"still": asked("sees", 32, 40)}, LEVELS)["still"]
    assert findings.control_words("still", found).startswith("still: 75.0 % does not fall (80.0 %)")
    found = findings.against_controls(own, {"still": asked("sees", 20, 40)}, LEVELS)["still"]
    assert findings.control_words("still", found).endswith("No task stays above guessing.")


def test_a_task_that_asks_for_the_order_is_said_to_fall_without_it_or_not_to():
    own = [*asked("sees", 36, 40), *asked("reads", 36, 40), *asked("luck", 22, 40)]
    mixed = [*asked("sees", 20, 40), *asked("reads", 34, 40), *asked("luck", 22, 40)]
    found = findings.against_controls(own, {"shuffled frames": mixed}, LEVELS)["shuffled frames"]
    said = findings.control_words("shuffled frames", found, ["sees", "reads", "luck", "never asked"])
    assert (
        "sees asks for the order of the frames: 90.0 % falls to 50.0 % without it, to guessing, as it should." in said
    )
    assert "reads asks for the order of the frames: 90.0 % falls to 85.0 % without it, not to guessing" in said
    assert "luck asks for the order of the frames: 55.0 % falls to 55.0 % without it, which says nothing" in said
    assert "never asked" not in said
    for control, order in (("shuffled frames", []), ("blind", ["sees"])):
        assert "asks for the order" not in findings.control_words(control, found, order)


def test_a_control_that_leaves_the_model_without_words_is_told_apart():
    own, mute = asked("sees", 36, 40), [row | {"answer": None} for row in asked("sees", 0, 40)]
    found = findings.against_controls(own, {"blind": mute}, LEVELS)["blind"]
    assert found["sees"]["unread"] == 1.0
    assert "Unread, so wrong: sees (100.0 %); there it lost its form" in findings.control_words("blind", found)


def test_a_control_of_other_questions_is_refused():
    with pytest.raises(ValueError, match="blind: 'reads-0' was never asked with its own clip"):
        findings.against_controls(asked("sees", 3, 4), {"blind": asked("reads", 3, 4)}, LEVELS)


def test_a_lost_task_is_said_to_be_lost():
    predictions = {"base": asked("sees", 0, 60), "sft": asked("sees", 50, 60), "rl": asked("sees", 30, 60)}
    found = findings.skills(predictions)
    assert {pair: part["sees"]["verdict"] for pair, part in found.items()} == {
        "rl_vs_sft": "lost",
        "rl_vs_base": "kept",
    }
    said = findings.worse_words(found)
    assert said == "RL against SFT: lost sees (−33.3). RL against base: no task is surely lost."
    assert findings.skills({"base": asked("sees", 1, 2)}) == {} and findings.worse_words({}) == ""


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


# The rows of the controls


def test_controls_ask_the_same_questions_with_less_to_see_and_only_once(runs, monkeypatch):
    road_vqa.world(runs / "job" / "data", 0, {"train": 1, "validation": 1, "test": 3})
    job = tutorial.job("job")
    rows = pipeline.controls(job, "base", 8)
    ids = [s.id for s in job.unseen(8)]
    assert all([row["id"] for row in rows[name]] == ids for name in findings.MEANS)
    assert all(row["video"] is None for row in rows["blind"])
    turned = [row["id"] for row in rows.get("turned options", [])]
    assert len(turned) == 4 * sum(row["kind"] == "mcq" for row in rows["blind"]) and all("#turn" in i for i in turned)
    monkeypatch.setattr("cookbook.model.generation.generate", None)  # nobody is asked a second time
    assert pipeline.controls(job, "base", 8) == rows
    with pytest.raises(TypeError):
        pipeline.prompted(job, "base", "Look twice. " + job.contract.system, 8)
