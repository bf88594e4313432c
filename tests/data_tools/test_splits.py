"""Splits, balance, subsets: no clip in two splits, every sample once, no answer that changes its clip."""

from collections import Counter

import datasets
import numpy as np
import pytest

from cookbook.data.samples import DataError, Sample, message, text
from data_tools.loading.splits import balance, hold_out, label_by, label_of, split_by_clip, subset

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
SEEDS = range(20)


def sample(name, group, label=None, clips=(), **fields):
    parts = [{"type": "video", "video": f"/clips/{clip}.mp4"} for clip in clips]
    return Sample(
        name, group, (message("user", *parts, text("?")), message("assistant", text("!"))), label=label, **fields
    )


def some(seed, groups=30):
    """Samples of few or many to a group, of labels that are common or rare, each about the clip of its group."""
    rng = np.random.default_rng(seed)
    made = []
    for group in range(groups):
        for _ in range(rng.integers(1, 6)):
            label = str(rng.choice(["common", "usual", "rare"], p=[0.6, 0.3, 0.1]))
            made.append(sample(f"r{len(made)}", f"g{group}", label, [f"g{group}"]))
    return made


def shuffled(samples, seed):
    return [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))]


def ids(samples):
    return {r.id for r in samples}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sample_once_and_no_group_in_two_splits(seed):
    samples = some(seed)
    parts = split_by_clip(samples, SHARES, seed)
    assert Counter(r.id for part in parts.values() for r in part) == Counter(r.id for r in samples)
    owners = Counter(group for part in parts.values() for group in {r.group for r in part})
    assert set(owners.values()) == {1}
    assert {name: len({r.group for r in part}) for name, part in parts.items()} == {
        "train": 24,
        "validation": 3,
        "test": 3,
    }
    order = {r.id: i for i, r in enumerate(samples)}
    assert all(sorted(part, key=lambda r: order[r.id]) == part for part in parts.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_the_input_does_not_matter(seed):
    samples = some(seed)
    other = shuffled(samples, seed)
    assert other != samples
    parts, again = split_by_clip(samples, SHARES, seed), split_by_clip(other, SHARES, seed)
    assert all(ids(parts[name]) == ids(again[name]) for name in SHARES)
    assert ids(balance(samples, seed).samples) == ids(balance(other, seed).samples)
    assert ids(hold_out(samples, 10, seed)[1]) == ids(hold_out(other, 10, seed)[1])


def test_the_seed_matters():
    samples = some(0)
    assert len({frozenset(ids(split_by_clip(samples, SHARES, seed)["test"])) for seed in SEEDS}) > 10
    assert len({frozenset(ids(balance(samples, seed).samples)) for seed in SEEDS}) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_that_share_any_clip_stay_together(seed):
    """Two clips in one question tie their groups together, over any number of steps."""
    rng = np.random.default_rng(seed)
    samples = some(seed, 12) + [
        sample(f"both{i}", f"pair{i}", clips=[f"g{a}", f"g{b}"]) for i, (a, b) in enumerate(rng.integers(0, 12, (4, 2)))
    ]
    for chosen in (samples, shuffled(samples, seed)):
        parts = split_by_clip(chosen, {"a": 0.5, "b": 0.5}, seed)
        clips = [{path for r in part for _, path in r.media()} for part in parts.values()]
        assert not clips[0] & clips[1]
        kept, held = hold_out(chosen, 3, seed)
        assert not {p for r in kept for _, p in r.media()} & {p for r in held for _, p in r.media()}


@pytest.mark.parametrize("count", [3, 4, 7, 10, 11])
def test_small_data_fills_every_split_and_shares_come_close(count):
    samples = [sample(f"r{i}", f"g{i}") for i in range(count)]
    parts = split_by_clip(samples, SHARES)
    assert all(parts.values()) and sum(map(len, parts.values())) == count
    assert len(parts["train"]) == count - 2
    thirds = split_by_clip(samples, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert max(map(len, thirds.values())) - min(map(len, thirds.values())) <= 1


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}])
def test_impossible_shares(shares):
    with pytest.raises(DataError, match="shares"):
        split_by_clip(some(0), shares)


def test_too_few_clips_to_split():
    with pytest.raises(DataError, match="2 clips cannot fill 3 splits"):
        split_by_clip([sample(f"r{i}", f"g{i % 2}") for i in range(9)], SHARES)


@pytest.mark.parametrize("seed", SEEDS)
def test_hold_out_takes_whole_clips_and_leaves_some(seed):
    samples = some(seed)
    kept, held = hold_out(samples, 10, seed)
    assert len(kept) + len(held) == len(samples) and ids(kept).isdisjoint(ids(held))
    assert not {r.group for r in kept} & {r.group for r in held}
    assert 10 <= len(held) < 15  # up to the end of the clip that reaches it
    assert 0.1 * len(samples) <= len(hold_out(samples, 0.1, seed)[1]) < 0.1 * len(samples) + 5
    assert hold_out(samples, 0) == (samples, [])
    left, most = hold_out(samples, 10**6, seed)
    assert len({r.group for r in left}) == 1 and len(left) + len(most) == len(samples)
    with pytest.raises(DataError, match="cannot be divided"):
        hold_out(samples[:1], 1)
    with pytest.raises(DataError, match="hold out -1"):
        hold_out(samples, -1)


@pytest.mark.parametrize("seed", SEEDS)
def test_balance_keeps_every_pair_of_clip_and_label(seed):
    samples = some(seed)
    found = balance(samples, seed)
    rarest = min(Counter(r.label for r in samples).values())
    assert set(Counter(r.label for r in found.samples).values()) == {rarest}
    assert all(any(r is old for old in samples) for r in found.samples)  # the very samples: nothing can be torn apart
    assert len(ids(found.samples)) == len(found.samples)
    assert (found.before, found.after) == (Counter(r.label for r in samples), Counter(r.label for r in found.samples))
    few = balance(samples, seed, per_label=2)
    assert all(count == min(2, few.before[label]) for label, count in few.after.items())
    assert ids(few.samples) <= ids(found.samples) or rarest < 2  # a smaller choice is part of the larger one
    assert f"rare: {found.after['rare']} of {found.before['rare']}" in str(found)


def test_what_balance_counts():
    assert label_of(sample("a", "g", "day", answer="B", options=("A", "B"))) == "day"
    assert label_of(sample("a", "g", answer="B", options=("A", "B"))) == "B"
    with pytest.raises(DataError, match="a: has no label"):
        balance([sample("a", "g", answer="a sentence of its own")])
    assert balance([]).samples == []


def test_labels_from_a_field():
    caption = Sample("a", "a", (message("user", text("?")), message("assistant", text('{"weather": "rain", "n": 1}'))))
    assert label_by([caption], "weather")[0].label == "rain"
    assert label_by([sample("b", "b", extra={"n": 2})], "n")[0].label == "2"
    for bad in (sample("b", "b"), caption):
        with pytest.raises(DataError, match=r"has no field 'gone'"):
            label_by([bad], "gone")


@pytest.mark.parametrize("seed", SEEDS)
def test_subset_is_the_slice_that_datasets_takes(seed):
    rng = np.random.default_rng(seed)
    samples = [sample(str(i), "g") for i in range(rng.integers(1, 250))]

    def edge(unit, most):
        return "" if rng.random() < 0.3 else f"{rng.integers(-most, most + 1)}{unit}"

    for unit, most in (("", 300), ("%", 100)):
        spec = f"train[{edge(unit, most)}:{edge(unit, most)}]"
        (rows,) = datasets.ReadInstruction.from_spec(spec).to_absolute({"train": len(samples)})
        assert subset(samples, spec) == samples[rows.from_ : rows.to]
        assert subset(samples, spec.removeprefix("train")) == subset(samples, spec)


def test_subset_syntax():
    samples = [sample(str(i), "g") for i in range(60)]
    assert subset(samples, "train[:100]") == subset(samples, "train") == subset(samples, "[:]") == samples
    assert [r.id for r in subset(samples, "[10:12]")] == ["10", "11"]
    for bad in ("", "[10]", "[:10", "train[a:b]", "[:10%:2]", "[1:10%]", "train[:1.5]", "[::2]", "[:101%]"):
        with pytest.raises(DataError):
            subset(samples, bad)
