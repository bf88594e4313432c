"""The command line of the toy worlds: every one takes a folder, a count for each of its splits, and a seed."""

import importlib
import json
import sys

import pytest

from data_tools.worlds import command_line

WORLDS = ("road", "plausible", "junction", "warehouse", "av_drive")


def test_counts_seed_and_other_options_are_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["world", "out", "--test", "0", "--seed", "3", "--share", "0.5"])
    args = command_line("About.", {"train": 9, "test": 5}, share={"type": float})
    assert (str(args.out), args.counts, args.seed, args.share) == ("out", {"train": 9}, 3, 0.5)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_builds_the_splits_that_the_shell_names(name, tmp_path, monkeypatch):
    world = importlib.import_module(f"data_tools.{name}_world")
    counts = dict.fromkeys(world.SPLITS, 0) | {"train": 4}
    words = [word for split, count in counts.items() for word in (f"--{split}", str(count))]
    monkeypatch.setattr(sys, "argv", ["world", str(tmp_path / "out"), *words, "--seed", "2"])
    world.main()
    stamp = json.loads((tmp_path / "out" / world.STAMP).read_text())
    assert (stamp["counts"], stamp["seed"]) == ({"train": 4}, 2)
