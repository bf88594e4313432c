"""The report: one file that needs no other, says what the numbers say, and trusts no model's words."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import LOOKS, Browser, needs_browser
from PIL import Image

from cookbook.display import plots
from cookbook.evaluation import findings, report
from cookbook.evaluation.outcome import outcome
from cookbook.evaluation.report import Report
from cookbook.evaluation.scores import compare
from data_tools.worlds import road
from data_tools.worlds.road_questions import Question, questions

ATTACK = "<script>alert('base')</script> & \"quotes\" </pre><img src=x>"
MANIFEST = {
    "seed": 7,
    "rl": {"outcome": "stopped"},
    "versions": {"torch": "2.11.0", "nested": {"deep": [1, 2]}},
    "note": "<b>bold</b>",
    "empty": {},
}
COMMAND = "papermill notebooks/rl.ipynb out.ipynb -p job 'my job' && echo <done>"
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


def full(run, controls) -> Report:
    """A report with all its parts."""
    predictions, comparison = run
    extra = {"manifest": MANIFEST, "texts": TEXTS, "notes": ["A <note>."], "again": {"Again:": COMMAND}}
    return Report(comparison, predictions, CURVE, WILD, controls, **extra)


@pytest.fixture(scope="module")
def path(run, controls, tmp_path_factory) -> Path:
    """The report with all its parts."""
    path = tmp_path_factory.mktemp("run") / "new folder" / "report.html"
    assert full(run, controls).write(path) == path
    return path


@pytest.fixture(scope="module")
def written(path) -> tuple[str, Page]:
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


# What stands in it


def test_the_answer_comes_first(run, written):
    _, comparison = run
    _, page = written
    answer, evidence = findings.short_answer(comparison), findings.evidence(comparison)
    assert next(tag for tag, _ in page.tags if tag in ("h1", "h2", "table", "img")) == "h1"
    ended = "RL is not at its end (stopped)."
    alarms = "RL set off an alarm: kl (from step 5 on) and kl-runaway (severe, from step 5 on)."
    body = page.text[page.text.index("Did it get better?") :]
    assert body.startswith(f"Did it get better? {answer} {ended} {alarms} {evidence}")


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
    redrawn = [findings.from_to(found["ci95_clustered"]) for found in comparison["models"].values()]
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
        assert f"{findings.hundred(found['accuracy'])} {findings.from_to(found['ci95'])}" in text
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
    assert "kl (warning, step 5 of 20)" in written[1].text
    predictions, comparison = run
    risen = [{"step": i, "train/loss_avg": 1.0, "val/avg_loss": i / 10} for i in range(1, 6)]
    path = Report(comparison, predictions, risen, CURVE[:5]).write(tmp_path / "r.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert "SFT set off an alarm: overfitting" in page.text and "No alarm went off in 5 steps." in page.text


def test_texts_stand_as_they_are_and_origins_beside_them(run, written):
    html, page = written
    _, comparison = run
    assert "base: <tiny> └─ SFT" in page.text and "[train] epoch = 3" in page.text
    assert "└─ SFT</pre>" in html and "rl" in comparison["contracts"]
    assert "model weights contract decoding base not known" in page.text


def test_examples_show_the_question_and_the_raw_words_of_every_model(run, written):
    predictions, _ = run
    _, page = written
    chosen = report.choose_examples(report.sort_items(predictions), predictions["base"], 6)
    shown = [i for positions in chosen.values() for i in positions]
    assert len(shown) == 6
    for i in shown:
        for rows in predictions.values():
            assert rows[i]["output"] in page.text
            assert " ".join(rows[i]["question"].split()) in page.text
    strips = [attrs for tag, attrs in page.tags if attrs.get("aria-label", "").startswith("Frames of the clip")]
    frames = [attrs for tag, attrs in page.tags if tag == "img" and attrs["alt"].startswith("Frame ")]
    assert len(strips) == 6 and len(frames) == 6 * 8


def test_one_clip_can_be_played_and_is_the_one_beside_it(run, written, items):
    (clip,) = [attrs for tag, attrs in written[1].tags if tag == "video"]
    named = clip["aria-label"].removeprefix("The clip ").removesuffix(", without sound")
    video = next(video for question, video in items if question.clip == named)
    assert base64.b64decode(clip["src"].removeprefix("data:video/mp4;base64,")) == video.read_bytes()
    assert "autoplay" not in clip and clip["poster"].startswith("data:image/")


def test_a_line_to_run_it_again_stands_whole_beside_its_button(written):
    html, page = written
    assert f"Again: {COMMAND} copy" in page.text
    assert '<button type="button" hidden>copy</button>' in html  # shown by the script, where one runs


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
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    allowed = base64.b64encode(hashlib.sha256(report.SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in html and f"<script>{report.SCRIPT}</script>" in html
    assert "note <b>bold</b>" in page.text
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_nothing_is_loaded_from_anywhere(written):
    html, page = written
    assert re.findall(r"https?://|@import|url\(", html) == []
    names = ("src", "srcset", "href", "poster")
    references = [value for _, attrs in page.tags for name, value in attrs.items() if name in names]
    assert all(value.startswith(("data:", "#")) for value in references)
    assert "default-src 'none'" in html


def test_it_is_small(written):
    html, _ = written
    assert len(html.encode()) < 3_000_000


def test_filmed_clips_keep_it_small_too(run, monkeypatch, tmp_path):
    predictions, comparison = run
    noise = np.random.default_rng(0).integers(0, 256, (128, 1600, 3), dtype=np.uint8)  # nothing is harder to pack
    monkeypatch.setattr(plots, "frame_pictures", lambda video, fps: [(0.0, Image.fromarray(noise))])
    path = Report(comparison, predictions, CURVE, WILD, manifest=MANIFEST, clips=2).write(tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 2 + 1  # and the poster
    assert path.stat().st_size < 1_200_000  # and so six of them leave it below 3 MB


@needs_browser
def test_in_a_browser_it_is_quiet_and_fits_a_phone(path):
    with Browser() as browser:
        for width, dark in ((1280, False), (390, True)):
            seen = browser.open(path, width, dark)
            assert (seen.console, seen.requests) == ([], [])
            assert seen.overflow <= 0 and seen.broken == 0
            light = np.asarray(Image.open(io.BytesIO(seen.picture)).convert("L")).mean()
            assert light < 100 if dark else light > 150
        assert browser.printed().startswith(b"%PDF")


@needs_browser
def test_nobody_is_shut_out(path):
    with Browser() as browser:
        for width, dark in LOOKS:
            browser.open(path, width, dark)
            assert browser.violations() == []


@needs_browser
def test_on_a_phone_pictures_shrink_and_a_table_that_is_too_wide_says_so_and_takes_the_keyboard(path):
    with Browser() as browser:
        browser.open(path, 390)
        right = "Math.max(...[...document.querySelectorAll('img, video')].map(i => i.getBoundingClientRect().right))"
        assert browser.page.evaluate(right) <= 390
        boxes = browser.page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(box => box.checkVisibility()).map(box => "
            "[box.scrollWidth > box.clientWidth, box.nextElementSibling.checkVisibility(), box.tabIndex === 0])"
        )
        assert {tuple(box) for box in boxes} == {(True, True, True), (False, False, False)}


@needs_browser
def test_the_first_stop_of_the_keyboard_skips_to_the_figures_a_line_is_copied_and_the_clip_plays(path):
    with Browser() as browser:
        browser.open(path, 1280)
        browser.page.keyboard.press("Tab")
        assert browser.page.evaluate("document.activeElement.hash") == "#main"
        assert browser.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        browser.page.click(".copy button")
        said = browser.page.inner_text(".copy button"), browser.page.evaluate("getSelection().toString()")
        assert said == ("copied", COMMAND)
        seconds = "new Promise(end => { clip.onloadeddata = () => end(clip.duration); clip.onerror = () => end(0) })"
        plays = f"clip => {{ clip.preload = 'auto'; clip.load(); return {seconds} }}"
        assert browser.page.eval_on_selector("video", plays) == pytest.approx(4, abs=0.6)


@needs_browser
def test_the_browser_sees_what_a_report_must_not_have(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="gone.png"><div style="width: 2000px">wide</div><script>console.error("oh")</script>')
    with Browser() as browser:
        seen = browser.open(bad, 390)
    assert any("oh" in said for said in seen.console)
    assert seen.requests == [(tmp_path / "gone.png").as_uri()]
    assert seen.overflow > 1000 and seen.broken == 1


def test_the_same_arguments_give_the_same_bytes(run, controls, written, tmp_path):
    again = full(run, controls).write(tmp_path / "r.html")
    assert again.read_text(encoding="utf-8") == written[0]


def test_what_is_missing_is_left_out_or_named(run, tmp_path):
    predictions, comparison = run
    gone = {name: [{**row, "video": "gone/clip.mp4"} for row in rows] for name, rows in predictions.items()}
    page = Page(Report(comparison, gone).write(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.count("No picture: clip.mp4 cannot be read as a video") == 6
    assert [attrs["alt"][:4] for tag, attrs in page.tags if tag == "img"] == ["Bars"]
    assert not any(heading in page.text for heading in ("Training", "look at the clip", "alarms of", "What differs"))


def test_one_model_alone_has_a_report_too(run, tmp_path):
    predictions, _ = run
    only = {"base": predictions["base"]}
    comparison = compare(only, only["base"])
    page = Page(Report(comparison, only).write(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "One model, nothing to compare it with" in page.text
    assert "base is still wrong" in page.text
    assert "What got worse" not in page.text


def test_a_job_without_rl_and_of_other_names_has_one_too(run, tmp_path):
    predictions, _ = run
    other = {"start": predictions["base"], "skewed": predictions["sft"]}
    comparison = compare(other, predictions["base"])
    page = Page(Report(comparison, other, sft=CURVE).write(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "start → skewed" in page.text and "skewed is right where start was wrong" in page.text
    alts = [attrs["alt"][:4] for tag, attrs in page.tags if tag == "img"]
    assert alts[:2] == ["Bars", "Loss"] and "alarms of RL" not in page.text
    assert str(outcome(CURVE)).split("\n")[0][9:] in page.text  # what `cookbook.watch` says of the run
