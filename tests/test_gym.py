"""The reward gym: gold earns everything or is refused, odd answers do not, and groups are counted right."""

import json
import random
from dataclasses import replace

import pytest

from cookbook import gym
from cookbook.config import Config, ConfigError
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.gym import constant_policies, equal_groups, group_table, label_table, odd_answers, rewards_that_work
from cookbook.jobs import contract_for
from cookbook.training.rewards import PARTS, RewardError, full_marks, require_gold, reward
from data_tools.loading.samples import with_options

CONFIG = Config.load("configs/tiny_rl.toml")
WEIGHTS = {"single_choice": 1.0, "format": 0.1}


def bare(name, answer="A", options="ABCD", task="t"):
    return Sample(name, name, (message("user", text("?")),), answer, tuple(options), label=answer, task=task)


# ---- gold -------------------------------------------------------------------------------------------------------


def test_every_right_answer_of_the_road_world_earns_all(samples, contract):
    require_gold(samples, WEIGHTS, contract)
    require_gold(samples, {"single_choice": 1.0, "format": 0.1, "length": 0.2, "ordinal": 1.0}, contract)


def test_a_written_answer_is_gold_where_there_is_no_other(contract):
    told = (message("user", text("?")), message("assistant", text(contract.write_answer("", "a red car"))))
    require_gold([Sample("s", "g", told)], {"rouge_l": 1.0, "format": 0.1}, contract)


@pytest.mark.parametrize("question", ["What falls?\n(A) rain\n(B) snow", "What falls? (A) rain (B) snow"])
@pytest.mark.parametrize("answers", ["A B", "(A) (B)", "A.rain B.snow", "(A)rain (B)snow", "rain snow"])
def test_choices_in_the_words_alone_are_paid_as_choices(contract, question, answers):
    written = [answer.replace(".", ". ").replace(")", ") ").strip() for answer in answers.split()]
    asked = [(message("user", text(question)), message("assistant", text(answer))) for answer in written]
    found = [with_options(Sample(str(i), str(i), messages)) for i, messages in enumerate(asked)]
    assert [(s.answer, s.options) for s in found] == [("A", ("A", "B")), ("B", ("A", "B"))]
    assert rewards_that_work(found, contract_for(found, contract)) == {"single_choice": 1.0}
    free = Sample("s", "s", (asked[0][0], message("assistant", text("Hail."))))
    assert with_options(free) == free and with_options(found[0]) == found[0]


@pytest.mark.parametrize(
    ("broken", "weights", "words"),
    [
        (bare("lower", answer="E"), WEIGHTS, "lower.*'<think></think>.*earns single_choice 0"),
        (bare("none", answer=None), WEIGHTS, "none"),
        (bare("words", answer="far", options=""), {"numeric": 1.0}, "earns numeric 0"),
        (bare("span", answer="6 - 2", options=""), {"span_iou": 1.0}, "earns span_iou 0"),
    ],
)
def test_a_right_answer_that_cannot_earn_all_is_named(broken, weights, words, contract):
    good = bare("fine", answer={"numeric": "3", "span_iou": "2 - 6"}.get(next(iter(weights)), "A"), options="A")
    with pytest.raises(RewardError, match=rf"(?s)1 of 2 samples .*{words}"):
        require_gold([replace(good, options=broken.options), broken], weights, contract)


def test_a_prompt_that_forbids_what_the_reward_demands_is_found(samples):
    """The published recipe whose reward can never be 1: answers come as plain letters, and the reward wants tags."""
    letters = Contract.load("configs/prompts/choices.yaml")
    asked = Contract(letters.system, "text" if letters.answer_format != "text" else "think_answer", letters.vision)
    written = [replace(bare("a"), messages=(message("user", text("?")), message("assistant", text("A"))), answer=None)]
    other = Contract("", "think_answer", asked.vision)
    with pytest.raises(RewardError, match="earns format 0"):
        require_gold(written, {"format": 1.0}, other)


def test_a_penalty_does_not_count_as_something_to_earn(contract):
    assert full_marks({"single_choice": 1.0, "length": -0.5}) == 1.0


# ---- odd answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["ABCD", ("Yes", "No"), ("1", "2", "3", "4", "5")])
def test_odd_answers_are_paid_only_where_they_are_right(options, contract):
    sample = bare("s", answer=options[0], options=options)
    table = [(right, reward(words, sample, WEIGHTS, contract)) for _, right, words in odd_answers(sample, contract)]
    assert len(table) >= 20
    assert [earned.parts["single_choice"] for _, earned in table] == [float(right) for right, _ in table]
    assert all(right for right, earned in table if earned.total == 1.1)


def test_a_leak_is_seen_in_the_table(samples, contract, monkeypatch):
    def leaks() -> set[str]:
        (odd,) = (table for table in gym.gym(CONFIG, samples, contract) if table.title == "odd answers")
        return {name for name, right, total, *_ in odd.rows if right == "no" and float(total) >= 1.1}

    assert leaks() == set()
    monkeypatch.setitem(PARTS, "single_choice", lambda completion, sample, contract: float(sample.answer in completion))
    assert {"not the answer", "answer inside prose", "wrong or right, in one answer"} <= leaks()


# ---- constant policies, histograms, groups ----------------------------------------------------------------------


def test_constant_policies_by_hand(contract):
    items = [bare(str(i), answer="AAB"[i]) for i in range(3)] + [bare("3", "No", ("Yes", "No"), "u")]
    found = constant_policies(items, WEIGHTS, contract)
    assert found["always A"] == pytest.approx(0.5 + 0.1) and found["always B"] == pytest.approx(0.25 + 0.1)
    assert found["always No"] == pytest.approx(0.25 + 0.1) and found["always D"] == pytest.approx(0.1)
    assert found["majority of each task"] == pytest.approx(0.75 + 0.1)


def test_a_constant_answer_is_paid_for_being_near(contract):
    items = [bare(f"s{i}", score, "12345") for i, score in enumerate("44435")]
    earned = constant_policies(items, {"ordinal": 1.0}, contract)
    near = {"always 1": 0.0, "always 2": 0.1, "always 3": 0.5, "always 4": 0.8, "always 5": 0.5}
    assert earned == pytest.approx(near | {"majority of each task": 0.8})


def test_rewards_are_counted_by_label():
    scored = [(bare("a"), 1.1), (bare("b"), 0.1), (bare("c"), 1.1), (bare("d", "B"), 0.0)]
    table = label_table(scored)
    assert table.head == ("label", "0", "0.1", "1.1") and table.rows == [("A", 0, 1, 2), ("B", 1, 0, 0)]


def test_groups_of_as_many_completions_are_counted_exactly():
    scored = [(bare("same"), 1.0)] * 4 + [(bare(f"differ{i // 4}"), float(i % 2)) for i in range(12)]
    assert equal_groups(scored, 4)[0] == 0.25
    assert group_table(scored, 4, 16).rows == [(4, "0.25", 16, "12.0", "4 prompts with 4 completions or more")]


def test_more_completions_give_the_share_of_all_ways_to_draw():
    """Sixteen completions of each prompt say what groups of four would be, without drawing any."""
    rng = random.Random(0)
    prompts = {f"p{i}": rng.random() for i in range(30)}
    scored = [(bare(name), float(rng.random() < p)) for name, p in prompts.items() for _ in range(16)]
    drawn = []
    for name in prompts:
        own = [total for s, total in scored if s.id == name]
        drawn += [len(set(rng.sample(own, 4))) == 1 for _ in range(400)]
    assert equal_groups(scored, 4)[0] == pytest.approx(sum(drawn) / len(drawn), abs=0.02)


def test_single_completions_give_a_lower_bound():
    rng = random.Random(0)
    p = [rng.random() for _ in range(4000)]
    share, basis = equal_groups([(bare(str(i)), float(rng.random() < q)) for i, q in enumerate(p)], 4)
    true = sum(q**4 + (1 - q) ** 4 for q in p) / len(p)
    assert share == pytest.approx(2 / 2**4, abs=0.01) and share < true
    assert "the true share is higher" in basis
    with pytest.raises(RewardError, match="let the model answer"):
        equal_groups([], 4)


# ---- all of it --------------------------------------------------------------------------------------------------


def test_the_gym_shows_all_its_tables(samples, contract):
    rows = [{"id": s.id, "output": s.target if i % 2 else "<b>"} for i, s in enumerate(samples)] + [{"id": "other", "output": ""}]  # fmt: skip  # noqa: E501
    found = gym.gym(CONFIG, samples, contract, rows)
    assert found.passed
    (labels,) = (table for table in found if table.title == "completions by label and reward")
    assert sum(sum(counts) for _, *counts in labels.rows) == len(samples)
    for title in ("right answers", "odd answers", "policies that look at nothing", "groups"):
        assert title in str(found) and title in found._repr_html_()
    assert ">gold</td>" in found._repr_html_()
    assert repr(found) == "\n\n".join(map(repr, found))
    assert found._repr_html_() == "".join(table._repr_html_() for table in found)
    broken = gym.gym(CONFIG, [*samples, bare("<i>", "E")], contract)
    assert not broken.passed and "&lt;i&gt;" in broken._repr_html_() and "<i>" not in broken._repr_html_()
    with pytest.raises(RewardError, match="no samples"):
        gym.gym(CONFIG, [], contract)


def test_the_command_line_fails_where_gold_does(world, samples, contract, tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.toml"
    path.write_text(CONFIG.edit({"train.train_policy.dataset.name": str(world)}).text())
    written = tmp_path / "generations.jsonl"
    written.write_text("".join(json.dumps({"id": s.id, "output": s.target}) + "\n" for s in samples))
    arguments = ["--config", str(path), "--loader", "data_tools/road_vqa.py", "--generations", str(written)]
    assert gym.main(arguments) == 0 and "odd answers" in capsys.readouterr().out
    monkeypatch.setitem(PARTS, "format", lambda *_: 0.0)
    assert gym.main(arguments) == 1 and "right answers that earn less" in capsys.readouterr().out
    assert gym.main(["--config", str(tmp_path / "gone.toml"), "--loader", "data_tools/road_vqa.py"]) == 2
    assert "no such configuration" in capsys.readouterr().err
    written.write_text('{"id":')
    assert gym.main(arguments) == 2 and "generations.jsonl:1: not a line of JSON" in capsys.readouterr().err
    for odd in ({"id": ["x"], "output": "a"}, {"id": samples[0].id, "output": 3}):
        written.write_text(json.dumps(odd))
        assert gym.main(arguments) == 2 and "row 1: its id or output is no text" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="names nope, which is none of"):
        gym.gym(CONFIG.edit({"train.train_policy.reward_function": {"nope": 1.0}}), samples, contract)
