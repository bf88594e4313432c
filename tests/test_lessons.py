"""Lessons of RL: their sentences are checked on figures, and, slowly, on real runs of three seeds."""

import json

import pytest

from cookbook import lessons
from cookbook.config import Config
from cookbook.lessons import LESSONS, Lesson, results_table, teach
from cookbook.pipeline import Job

SMALL = Config.load("configs/tiny_rl.toml").edit({
    "train.train_batch_per_replica": 8, "train.train_policy.mini_batch": 8, "rollout.n_generation": 4,
    lessons.START: lessons.jobs.BASE,
})  # fmt: skip

# what the runs of a lesson may have found, in the order of its variants: what proves the claim, what does not
FOUND = {
    "kl": ([{"kl": 0.5}, {"kl": 0.1}], [{"kl": 0.15}, {"kl": 0.1}]),
    "group": ([{"zero_variance": 0.6}, {"zero_variance": 0.2}], [{"zero_variance": 0.4}, {"zero_variance": 0.4}]),
    "hacking": (
        [{"reward": 0.95, "tokens": 9, "accuracy": 0.6}, {"reward": 0.9, "tokens": 20, "accuracy": 0.8}],
        [{"reward": 0.95, "tokens": 9, "accuracy": 0.75}, {"reward": 0.9, "tokens": 20, "accuracy": 0.8}],
    ),
    "sft_first": ([{"accuracy": 0.3}, {"accuracy": 0.8}], [{"accuracy": 0.75}, {"accuracy": 0.8}]),
    "balance": (
        [{"usual": 0.8, "accuracy": 0.4}, {"usual": 0.5, "accuracy": 0.6}],
        [{"usual": 0.8, "accuracy": 0.7}, {"usual": 0.5, "accuracy": 0.6}],
    ),
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_claim_is_checked_and_the_table_says_so(lesson):
    ok, other = FOUND[lesson]
    for figures, said in ((ok, "yes"), (other, "NO")):
        blank = dict.fromkeys(("reward", "kl", "tokens", "zero_variance", "accuracy", "usual"), 0.0)
        found = {label: blank | one for label, one in zip(LESSONS[lesson].variants, figures)}
        rows = results_table(lesson, found, seed=7).rows
        assert [row[2] for row in rows] == list(LESSONS[lesson].variants)
        assert {(row[0], row[1], row[4]) for row in rows} == {(lesson, 7, said)}
        assert all(key in row[3] for row in rows for key in LESSONS[lesson].shows)


def test_runs_of_a_lesson_leave_their_figures(samples, contract, monkeypatch, runs, capsys):
    """One step each, from the base; the second run trains on other samples and at another rate."""
    chosen_from = []

    def job(name, seed):
        splits = {"train": samples, "validation": samples[:6]}
        return Job(name, seed, lessons.jobs.LOADER, SMALL, contract, splits, "", SMALL[lessons.START], "")

    def choose(found):
        chosen_from.append(len(found))
        return found[:8]

    monkeypatch.setattr(lessons.videophy2, "even", choose)
    variants = {"a": {}, "b c": {"train.optm_lr": 1e-3, lessons.BALANCE: True}}
    monkeypatch.setitem(LESSONS, "small", Lesson("a moves", variants, ("kl", "accuracy"), lambda f: True, job, 1))
    found = teach("job0", "small", 0)
    assert found == json.loads((runs / "job0/lessons/small.json").read_text()) and chosen_from == [len(samples)]
    assert (runs / "job0/lessons/small/b_c/metrics.jsonl").read_text().count("\n") == 1
    for figures in found.values():
        assert all(0 <= figures[key] <= 1 for key in ("accuracy", "usual", "zero_variance"))
    monkeypatch.setitem(LESSONS, "small", Lesson("never", variants, ("kl",), lambda f: False, job, 1))
    assert lessons.main(["--only", "small", "--seeds", "0", "--name", "job"]) == 1
    assert capsys.readouterr().out.count("NO") == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_is_true(lesson, seed):
    found = teach(f"slow_lesson{seed}", lesson, seed)
    assert LESSONS[lesson].holds(found), found
