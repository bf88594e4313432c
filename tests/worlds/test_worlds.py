"""The command line of the toy worlds: every one takes a folder, a count for each of its splits, and a seed."""

import importlib
import json
import runpy
import sys

import pytest

from data_tools.worlds import STAMP, command_line, road

WORLDS = ("road", "falling", "junction", "warehouse", "drive", "lanes")


def test_counts_seed_and_other_options_are_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["world", "out", "--test", "0", "--seed", "3", "--share", "0.5"])
    args = command_line("About.", {"train": 9, "test": 5}, share={"type": float})
    assert (str(args.out), args.counts, args.seed, args.share) == ("out", {"train": 9}, 3, 0.5)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_builds_the_splits_that_the_shell_names(name, tmp_path, monkeypatch):
    world = importlib.import_module(f"data_tools.worlds.{name}")
    counts = dict.fromkeys(world.SPLITS, 0) | {"train": 4}
    words = [word for split, count in counts.items() for word in (f"--{split}", str(count))]
    monkeypatch.setattr(sys, "argv", ["world", str(tmp_path / "out"), *words, "--seed", "2"])
    runpy.run_path(world.__file__, run_name="__main__")
    stamp = json.loads((tmp_path / "out" / STAMP).read_text())
    assert (stamp["counts"], stamp["seed"]) == ({"train": 4}, 2)


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_that_is_whole_is_left_alone_and_one_that_is_not_is_built_anew(name, tmp_path):
    world = importlib.import_module(f"data_tools.worlds.{name}")
    more = {"violations": {"train": 0.5}} if name == "drive" else {}
    out = world.build(tmp_path / "out", {"train": 3}, **more)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    world.build(out, {"train": 3}, **more)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "world.json").rename(out / "world.json.part")  # as a build leaves it that is broken off
    world.build(out, {"train": 2}, **more)
    assert json.loads((out / STAMP).read_text())["counts"] == {"train": 2}
    assert not (out / "world.json.part").exists() and len(list(out.rglob("*"))) < len(before)


def test_a_folder_of_other_things_is_not_emptied(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear all")
    with pytest.raises(FileExistsError, match="is not empty, and no world was ever built there"):
        road.build(tmp_path, {"train": 1})
    assert (tmp_path / "letter.txt").exists()
