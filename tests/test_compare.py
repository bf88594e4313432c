"""Jobs beside each other: only what differs is shown, in the report's words; what does not compare is refused."""

import html
import json

import pytest
from browser import LOOKS, Browser, needs_browser

from cookbook import compare
from cookbook.evaluation import findings, scores
from cookbook.evaluation.predictions import read_row
from cookbook.runs import write_jsonl

CONFIG = """
[train]
output_dir = "{folder}/sft"
optm_lr = {rate}
epoch = 3

[train.train_policy]
type = "sft"
"""


def answered(right: int, n: int = 60, contract: str = "c0", weights: str = "") -> list[dict]:
    """Rows of yes-or-no questions about n clips, of which the first `right` are answered right."""
    rows = []
    for i in range(n):
        wanted = "Yes" if i % 2 else "No"
        said = wanted if i < right else "No" if i % 2 else "Yes"
        row = {"id": f"q{i}", "group": f"clip{i}", "task": "ab"[i // 2 % 2], "kind": "binary", "question": "?",
               "options": ["Yes", "No"], "reference": wanted, "output": f"<think></think>\n\n<answer>{said}</answer>",
               "contract": contract, "weights": weights or f"w{right}"}  # fmt: skip
        rows.append(read_row(row))
    return rows


def job(runs, name, rows, rate=1e-3, outcome="finished", losses=(3.0, 2.0, 1.0)):
    """Leaves what a job with SFT leaves; its base is right in half of the questions."""
    folder = runs / name
    for part in ("evaluation", "sft"):
        (folder / part).mkdir(parents=True)
    answers = {"base": answered(len(rows) // 2, len(rows), rows[0]["contract"]), "sft": rows}
    comparison = scores.compare(answers, rows)
    (folder / "evaluation/comparison.json").write_text(json.dumps(comparison))
    for model, part in answers.items():
        write_jsonl(part, folder / f"evaluation/predictions_{model}.jsonl")
    (folder / "sft/config.toml").write_text(CONFIG.format(folder=folder, rate=rate))
    (folder / "sft/manifest.json").write_text(json.dumps({"outcome": outcome, "seed": 0, "data": f"{folder}/data"}))
    metrics = [{"step": step, "train/loss_avg": loss} for step, loss in enumerate(losses, 1)]
    (folder / "sft/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))


@pytest.fixture
def two(runs):
    """Jobs a and b, of which b is right more often and had another rate."""
    job(runs, "a", answered(40))
    job(runs, "b", answered(55), rate=2e-3)
    return runs


def test_only_what_differs_is_told_and_the_jobs_own_folders_are_no_difference(two):
    sides = [compare.read_side(name) for name in "ab"]
    assert compare.differing(sides).rows == [("sft: train.optm_lr", "0.001", "0.002")]


def test_the_terminal_and_the_page_say_what_a_report_of_these_answers_would(two, capsys):
    assert compare.main(["a", "b"]) == 0
    said, page = capsys.readouterr().out, (two / "compare.html").read_text(encoding="utf-8")
    rows = {"a": answered(40), "b": answered(55)}
    expected = scores.compare(rows, rows["a"])
    answer, evidence = findings.short_answer(expected), findings.evidence(expected)
    assert answer == "Yes, better" and said.splitlines()[:2] == [f"Is b better than a? {answer}", evidence]
    assert f"<h1>{answer}</h1>" in page and evidence in html.unescape(page).replace("\u00a0", " ")
    assert "Curves of the jobs over one another" in page and "python -m cookbook.compare a b" in page
    assert f"page: {two / 'compare.html'}" in said


def test_three_jobs_are_paired_one_after_the_other_and_each_p_counts_all(two, tmp_path, capsys):
    job(two, "c", answered(56))
    assert compare.main(["a", "b", "c", "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith(
        "Is each better than the one before? Better with b; the rest is not certain\n"
    )
    assert (tmp_path / "page.html").is_file()


def test_a_run_that_was_not_ended_or_went_wrong_is_said_before_any_score(two, capsys):
    job(two, "c", answered(50), outcome="running", losses=[1.0] * 30)
    compare.main(["a", "c"])
    _, ended, alarm, progress, evidence, *_ = capsys.readouterr().out.splitlines()
    assert ended == "SFT of c is not at its end (running)."
    assert alarm.startswith("SFT of c set off an alarm: loss-flat") and evidence.startswith("a answers")
    assert progress.startswith("It does not hold of SFT of c that the training loss fell")


@pytest.mark.parametrize(
    "rows, said",
    [
        (answered(40, 58), "did not answer the same items: only a has row 59"),
        (answered(41, contract="c1"), "a was asked under contract c0, other under c1"),
        (answered(40), "a and other are one model: their weights are equal"),
    ],
)
def test_jobs_that_do_not_compare_are_refused_in_one_line(two, capsys, rows, said):
    job(two, "other", rows)
    assert compare.main(["a", "other"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and len(shown.err.splitlines()) == 1 and not shown.out


def test_jobs_without_an_evaluation_and_jobs_alone_are_refused_in_one_line(two, capsys):
    (two / "b/evaluation/comparison.json").unlink()
    for names, said in ((["a", "b"], "has no evaluation; run first: papermill"), (["a", "gone"], "has no evaluation"),
                        (["a"], "two jobs or more"), (["a", "a"], "each once")):  # fmt: skip
        assert compare.main(names) == 2
        shown = capsys.readouterr()
        assert said in shown.err and len(shown.err.splitlines()) == 1 and not shown.out


@needs_browser
def test_the_page_fits_a_phone_asks_for_nothing_and_shuts_nobody_out(two):
    compare.main(["a", "b"])
    with Browser() as browser:
        for width, dark in LOOKS:
            seen = browser.open(two / "compare.html", width, dark)
            assert (seen.console, seen.requests, seen.broken) == ([], [], 0) and seen.overflow <= 0
            assert browser.violations() == []
