"""Rewards: each part by a table, the sum, and the same functions in cosmos-rl, whose own differ where it says so."""

import math
import pickle
import random
import sys
import types
from dataclasses import replace

import pytest

from cookbook.config import Config, ConfigError
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.engine.reward_calls import EngineReward, reference_text
from cookbook.evaluation.predictions import judge
from cookbook.training import rewards
from cookbook.training.rewards import (
    ENGINE_PARTS,
    PARTS,
    RewardError,
    are_ours,
    require_gold,
    require_parts,
    reward,
    reward_weights,
)
from data_tools.loading.engine import EngineDataset, serve

GRPO = Config.load("configs/tiny_rl.toml")
ROAD = Contract.load("configs/prompts/road.yaml")  # think_answer
CHOICES = Contract.load("configs/prompts/choices.yaml")
OVERLONG = rewards.OVERLONG_KEYS
LIMITED = GRPO.edit({rewards.WEIGHTS: {"single_choice": 1.0, "overlong": 1.0}, f"{OVERLONG}.buffer_length": 16})


def sample(answer: str | None, options=(), target: str | None = None, **extra) -> Sample:
    turns = [message("user", text("?"))] + ([message("assistant", text(target))] if target is not None else [])
    return Sample("s", "g", tuple(turns), answer, tuple(options), extra=extra)


def full(answer: str, reasoning: str = "") -> str:
    return ROAD.write_answer(reasoning, answer)


YES_NO, RATING = ("Yes", "No"), ("1", "2", "3", "4", "5")
LINE = "a red car stops at the light"

# part, sample, what is in the answer, what it earns
TABLE = [
    ("single_choice", sample("A", "ABCD"), "A", 1), ("single_choice", sample("A", "ABCD"), "(a)", 1),
    ("single_choice", sample("A", "ABCD"), "B", 0), ("single_choice", sample("A", "ABCD"), "", 0),
    ("single_choice", sample(None), "anything", 0),
    ("binary", sample("Yes"), "yes", 1), ("binary", sample("Yes"), "Yes, they touch.", 1),
    ("binary", sample("no"), "False", 1), ("binary", sample("True"), "No", 0), ("binary", sample("Yes"), "perhaps", 0),
    ("binary", sample("maybe"), "yes", 0), ("binary", sample("Yes"), "", 0),
    ("ordinal", sample("4", RATING), "4", 1), ("ordinal", sample("4", RATING), "3", 0.5),
    ("ordinal", sample("4", RATING), "5", 0.5), ("ordinal", sample("4", RATING), "2", 0),
    ("ordinal", sample("4", RATING), "9", 0), ("ordinal", sample("4"), "5", 0.5), ("ordinal", sample("4"), "4", 1),
    ("ordinal", sample("4"), "4 or 5", 0), ("ordinal", sample("4"), "four", 0),
    ("ordinal", sample("high", ("low", "middle", "high")), "middle", 0.5), ("ordinal", sample("9", RATING), "5", 0),
    ("numeric", sample("20"), "20", 1), ("numeric", sample("20"), "20.9 m/s2", 1), ("numeric", sample("20"), "21.1", 0),
    ("numeric", sample("1,200"), "1200", 1), ("numeric", sample("-3"), "-3", 1), ("numeric", sample("3"), "-3", 0),
    ("numeric", sample("20", tolerance=2), "22", 1), ("numeric", sample("20", tolerance=2), "22.5", 0),
    ("numeric", sample("3"), "3-7", 0), ("numeric", sample("3"), "3 or 4", 0), ("numeric", sample("3"), "3,5", 0),
    ("numeric", sample("1"), "1.2.3", 0), ("numeric", sample("3"), "three", 0), ("numeric", sample("far"), "3", 0),
    ("numeric", sample("0"), "0", 1), ("numeric", sample("0"), "0.1", 0), ("numeric", sample("3"), "٣", 1),
    ("span_iou", sample("2 - 6"), "2 - 6", 1), ("span_iou", sample("2 - 6"), "from 4 s to 8 s", 2 / 6),
    ("span_iou", sample("2 - 6"), "[0.0, 2.0]", 0), ("span_iou", sample("2 - 6"), "6 - 2", 0),
    ("span_iou", sample("2 - 6"), "3", 0), ("span_iou", sample("2 - 6"), "2 - 6 and 7 - 8", 0),
    ("span_iou", sample("62 - 66"), "1:02 to 01:06.0", 1), ("span_iou", sample("3602 - 3606"), "1:00:02-1:00:06", 1),
    ("span_iou", sample("2 - 6"), '{"start": 2, "end": 4}', 0.5), ("span_iou", sample("no span"), "2 - 6", 0),
    ("rouge_l", sample(LINE), LINE, 1), ("rouge_l", sample(LINE), "A RED CAR, stops!", 2 * 4 / 11),
    ("rouge_l", sample(LINE), "light", 2 / 8), ("rouge_l", sample(LINE), "nothing", 0),
    ("rouge_l", sample(LINE), "", 0),
    ("rouge_l", sample(None, target=full("a b")), "a b", 1), ("rouge_l", sample("红 车"), "红 车", 1),
    ("format", sample("A"), "A", 1), ("length", sample("A"), "A", 1),
]  # fmt: skip


@pytest.mark.parametrize(("part", "given", "answer", "earns"), TABLE)
def test_what_a_part_pays(part, given, answer, earns):
    assert PARTS[part](full(answer), given, ROAD) == pytest.approx(earns)


@pytest.mark.parametrize("part", [name for name in PARTS if name != "length"])
def test_without_its_form_an_answer_earns_nothing(part):
    for given in (sample("A", "ABCD"), sample(None)):
        assert PARTS[part]("A 4 yes 2 - 6", given, ROAD) == 0


def test_length_is_free_up_to_twice_the_written_answer_and_then_costs():
    given = sample("A", target="word " * 50)
    assert [PARTS["length"]("word " * n, given, ROAD) for n in (1, 100, 150, 200, 10_000)] == [1, 1, 0.5, 0, 0]


def test_rouge_is_that_of_the_rouge_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = random.Random(0)
    for _ in range(50):
        a, b = (" ".join(rng.choices(["red", "car", "stops", "at", "the", "light"], k=rng.randint(1, 9))) for _ in "ab")
        assert rewards.rouge_l(full(a), sample(b), ROAD) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure)


def test_any_text_earns_between_nothing_and_all_and_never_what_it_does_not_say():
    rng = random.Random(1)
    bits = ["<think>", "</think>", "\n\n", "<answer>", "</answer>", "A", "(B)", "C.", " ", "4", "1e999", "not", "yes",
            "0:0:0", "-", "\x00", "🙂", "١", ")", "<", "²", "1,"]  # fmt: skip
    given = [sample("A", "ABCD"), sample("4", RATING), sample("Yes", YES_NO), sample("2 - 6"), sample("1e9")]
    for _ in range(1500):
        words = "".join(rng.choices(bits, k=rng.randint(0, 14)))
        for contract in (ROAD, CHOICES):
            for name, part in PARTS.items():
                for one in given:
                    value = part(words, one, contract)
                    assert 0 <= value <= 1 and math.isfinite(value), (name, words)
        if PARTS["single_choice"](words, given[0], ROAD):
            assert "A" in words.rpartition("</answer>")[0].rpartition("<answer>")[2], words


def test_the_sum_weighs_the_parts():
    earned = reward(full("B"), sample("A", "ABCD"), {"single_choice": 2.0, "format": 0.5, "length": 0.25}, ROAD)
    assert earned.total == pytest.approx(0.75) and earned.parts == {"single_choice": 0, "format": 1, "length": 1}
    with pytest.raises(KeyError):
        reward("", sample("A"), {"colour": 1.0}, ROAD)


def test_weights_may_be_a_name_a_list_or_a_table():
    key = "train.train_policy.reward_function"
    assert reward_weights(GRPO) == {"single_choice": 1.0, "format": 0.1}
    assert reward_weights(GRPO.edit({key: "format"})) == {"format": 1.0}
    assert reward_weights(GRPO.edit({key: ["single_choice", "format"]})) == {"single_choice": 1.0, "format": 1.0}
    assert reward_weights(GRPO.edit({key: None})) == {"single_choice": 1.0}  # the engine's default


def test_a_penalty_is_no_part_to_earn_and_counts_by_its_weight():
    earned = reward(full("A"), sample("A", "ABCD"), {"single_choice": 1.0, "overlong": 0.5}, ROAD, lost=-0.4)
    assert earned.total == pytest.approx(0.8) and earned.parts == {"single_choice": 1, "overlong": -0.4}
    require_gold([sample("A", "ABCD")], {"single_choice": 1.0, "overlong": 1.0}, ROAD)


@pytest.mark.parametrize("buffer", [0, -4, 48, 4096])  # the last is the engine's default, and punishes an empty answer
def test_a_buffer_as_long_as_the_limit_is_refused(buffer):
    with pytest.raises(ConfigError, match=f"buffer_length: is {buffer}, which does not lie between 0 and .* = 48"):
        require_parts(LIMITED.edit({f"{OVERLONG}.buffer_length": buffer}))
    require_parts(LIMITED)
    require_parts(GRPO.edit({f"{OVERLONG}.buffer_length": buffer}))  # nobody asked for the part


def test_weights_that_pay_nothing_are_refused():
    for weights in ({"single_choice": 0.0}, {"format": -1.0}, {"overlong": 1.0}):
        config = LIMITED.edit({"train.train_policy.reward_function": None})
        with pytest.raises(ConfigError, match="pays for nothing"):
            require_parts(config.edit({f"train.train_policy.reward_function.{k}": v for k, v in weights.items()}))


# ---- in cosmos-rl -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    return pytest.importorskip("cosmos_rl.dispatcher.algo.reward", reason="cosmos-rl is not installed")


def test_the_engine_has_the_parts_that_the_lint_lets_pass(engine):
    assert set(engine.REWARD_FUNC_MAPPING) == set(ENGINE_PARTS)


# completion, reference, then (ours, the engine's) for single_choice and for format, and why they differ
SHARED = [
    (full("A"), "A", (1, 1), (1, 1), ""),
    (full("a"), "A", (1, 1), (1, 1), ""),
    (full("B"), "A", (0, 0), (1, 1), ""),
    (full(" A ", "They touch."), "A", (1, 1), (1, 1), ""),
    (full("(A)"), "A", (1, 0), (1, 1), "the engine compares the exact string"),
    (full("A."), "A", (1, 0), (1, 1), "the engine compares the exact string"),
    (full("A) rain"), "A", (1, 0), (1, 1), "the engine compares the exact string"),
    (full("A or B"), "A", (0, 0), (1, 1), ""),
    ("<answer>A</answer>", "A", (1, 1), (0, 0), ""),
    ("<think></think> <answer>A</answer>", "A", (1, 1), (0, 0), "one space, as in NVIDIA's prompt, is no format"),
    ("<think></think>\n\n\n<answer>A</answer>", "A", (1, 1), (0, 0), ""),
    ("A", "A", (0, 1), (0, 0), "without tags the engine takes the whole completion for the answer"),
    ("The answer is A.", "A", (0, 0), (0, 0), ""),
    (full("B") + full("A"), "A", (1, 0), (0, 1), "two are no form; the last counts here, the first there"),
    (full("A") + full("B"), "A", (0, 1), (0, 1), "two are no form; the last counts here, the first there"),
    (full("A") + " ", "A", (1, 1), (0, 0), ""),
    (full("A") + "\n", "A", (1, 1), (0, 1), "the engine's pattern ends in $, which a last newline passes"),
    (full("A", "<think>"), "A", (1, 1), (0, 0), ""),
    (full("A", "a < b"), "A", (1, 1), (1, 1), ""),
    (full("A", "<answer>B</answer>"), "A", (1, 0), (0, 1), "an answer in the thoughts counts for the engine"),
    (full(""), "A", (0, 0), (1, 1), ""),
    ("", "A", (0, 0), (0, 0), ""),
    (full("是"), "A", (0, 0), (1, 1), ""),
    (full("Ａ"), "A", (1, 0), (1, 1), "full-width letters are letters here"),
    ("x" * 10_000, "A", (0, 0), (0, 0), ""),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "answer", "choice", "form", "why"), SHARED)
def test_ours_and_the_engines_rewards_differ_only_where_it_says_so(engine, completion, answer, choice, form, why):
    given = sample(answer, "ABCD")
    got = (rewards.single_choice(completion, given, ROAD), engine.single_choice_reward_fn(completion, answer))
    assert got == choice
    got_form = (rewards.well_formed(completion, given, ROAD), engine.format_reward_fn(completion, answer))
    assert got_form == form
    assert bool(why) or (choice[0] == choice[1] and form[0] == form[1])


# tokens, then (ours, the engine's) at a limit of 48 with a buffer of 16, and why they differ
TOKENS = [(0, 0, 0, ""), (31, 0, 0, ""), (32, 0, 0, ""), (33, -1 / 16, -1 / 16, ""), (40, -0.5, -0.5, ""),
          (48, -1, -1, ""), (64, -1, -2, "no rollout is longer than the limit; the paper stops at -1")]  # fmt: skip


@pytest.mark.parametrize(("tokens", "ours", "theirs", "why"), TOKENS)
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_overlong_is_the_engines(engine, tokens, ours, theirs, why, factor, processor):
    """Ours by itself, by our configuration, and as the engine calls it; theirs by the engine's configuration."""
    config = LIMITED.edit({f"{OVERLONG}.penalty_factor": factor})
    words, tokenizer = " ".join(["the"] * tokens), processor.tokenizer
    assert rewards.count_tokens(words, tokenizer) == tokens
    keys = types.SimpleNamespace(buffer_length=16, penalty_factor=factor)
    policy = types.SimpleNamespace(
        overlong_reward=keys, filter_reward_metric=[], group_reward_calculation=False, reward_function=["overlong"]
    )
    same = types.SimpleNamespace(
        train=types.SimpleNamespace(train_policy=policy), rollout=types.SimpleNamespace(max_response_length=48)
    )
    assert engine.overlong_reward_fn(words, None, same, tokenizer) == pytest.approx(theirs * factor)
    calls = engine.Reward(same, tokenizer, explicit_reward_fn=[EngineReward({"overlong": 1.0}, ROAD)])
    (total,), _, (parts,) = calls.compute_reward([words], reference_text(sample("A")))
    assert total == rewards.overlong(tokens, 48, 16, factor) == rewards.penalty(words, config, tokenizer)
    assert total == parts["reward_overlong"] == pytest.approx(ours * factor) and bool(why) == (ours != theirs)
    assert rewards.penalty(words, GRPO, tokenizer) == 0


def test_the_engine_calls_our_rewards_and_logs_their_parts(engine, samples):
    weights = reward_weights(GRPO)
    ours = pickle.loads(pickle.dumps(EngineReward(weights, ROAD)))  # the engine rewards in other processes
    policy = types.SimpleNamespace(filter_reward_metric=[], group_reward_calculation=False, reward_function=weights)
    config = types.SimpleNamespace(train=types.SimpleNamespace(train_policy=policy))
    algo = engine.Reward(config, None, explicit_reward_fn=[ours])
    for one in samples[:5]:
        completions = [one.target, full("nothing"), "", f"<answer>{one.answer}</answer>"]
        totals, filtered, parts = algo.compute_reward(completions, reference_text(one))
        expected = [reward(words, one, weights, ROAD) for words in completions]
        assert totals == [r.total for r in expected] == filtered
        assert parts == [{f"reward_{name}": v for name, v in r.parts.items()} for r in expected]


@pytest.mark.parametrize("part", PARTS)
def test_the_reference_line_holds_all_that_a_part_needs(part):
    given = [sample("A", "ABCD"), sample("20", tolerance=2.0, other="x"), sample(None, target=full("a b c")),
             sample("4", RATING, target=full("4", "word " * 60)), sample("2 - 6")]  # fmt: skip
    for one in given:
        for answer in ("A", "22", "a b", "5", "3 - 6", "word " * 90):
            there = EngineReward({part: 1.0}, ROAD)(full(answer), reference_text(one))[0]
            assert there == PARTS[part](full(answer), one, ROAD)


@pytest.mark.parametrize("line", ["B", None, "[1]", '{"id": "x"}', "3"])
def test_a_reference_that_is_not_ours_is_refused(line):
    with pytest.raises(RewardError, match="not one that EngineDataset wrote"):
        EngineReward({"format": 1.0}, ROAD)("", line)


@pytest.mark.parametrize(("names", "ours"), [({"single_choice": 1.0}, True), ({"boxed_math": 1.0}, False)])
def test_serve_passes_our_rewards_where_the_names_are_ours(names, ours, samples, monkeypatch, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(GRPO.edit({"train.train_policy.reward_function": names, "validation.enable": True}).text())
    calls = []
    for name in ("cosmos_rl", "cosmos_rl.launcher", "cosmos_rl.launcher.worker_entry"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cosmos_rl.launcher.worker_entry"].main = lambda **kwargs: calls.append(kwargs)
    monkeypatch.setattr("cookbook.engine.bridge.install", lambda: None)
    monkeypatch.setattr(sys, "argv", ["x.py", "--config", str(path)])
    serve(lambda config: {"train": samples[:3], "validation": samples[3:5]})
    call = calls[0]
    data = call["val_dataset"](None)
    if ours:
        assert call["reward_fns"] == [EngineReward(names, ROAD)]
        assert call["val_reward_fns"] == [EngineReward(names, ROAD, keeps=False)]
        assert call["reward_fns"][0](samples[3].target, data.get_reference_answer(0))[0] == 1.0
    else:
        assert call["reward_fns"] is None is call["val_reward_fns"]
        assert data.get_reference_answer(0) == samples[3].answer


def test_sft_has_no_rewards_and_a_dataset_by_itself_gives_the_plain_answer(samples):
    assert not are_ours(Config.load("configs/tiny_sft.toml")) and are_ours(GRPO)
    assert EngineDataset(samples[:2], GRPO).get_reference_answer(1) == samples[1].answer
    assert EngineDataset([replace(samples[0], answer=None)], GRPO).get_reference_answer(0) == samples[0].target


def test_an_answer_in_the_options_words_is_paid_as_the_evaluation_counts_it():
    """The same sample, completion and contract: reward here, reward in the engine, and the evaluation's judgement."""
    question = "Why did it stop?\nA) rain\nB) a red signal\nC) debris"
    turns = (message("user", text(question)), message("assistant", text(full("B"))))
    one = Sample("x", "x", turns, "B", ("A", "B", "C"))
    for answer, right in (("B", 1.0), ("a red signal", 1.0), ("B) a red signal", 1.0), ("rain", 0.0), ("snow", 0.0)):
        assert rewards.single_choice(full(answer), one, ROAD) == right
        assert EngineReward({"single_choice": 1.0}, ROAD, keeps=False)(full(answer), reference_text(one))[0] == right
        assert judge(one, full(answer), ROAD)["correct"] == bool(right)
