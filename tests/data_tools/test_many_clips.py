"""Many clips in worker processes, and what is kept of them: in order, read once, whatever one clip does."""

import os
import subprocess
import sys
import time
from dataclasses import replace as changed
from pathlib import Path

import clip_makers as make
import psutil
import pytest
from helpers import codes, text_file

from cookbook.runs import ROOT
from data_tools.passport import clips
from data_tools.passport.clips import ClipCache, ClipFacts, inspect_all
from data_tools.passport.findings import Limits
from data_tools.passport.reader import Content

# Many clips, and the cache


def settled(facts: ClipFacts) -> ClipFacts:
    return changed(facts, decode_seconds=0)


def test_workers_find_what_one_process_finds_in_the_order_given(tmp_path):
    paths = [make.write(tmp_path / f"{i}.mp4", make.frames(i, count=2 + i % 5)) for i in range(12)]
    paths += [text_file(tmp_path / "bad.mp4"), tmp_path / "missing.mp4", paths[3]]
    here, there = (inspect_all(paths, cache=None, workers=workers) for workers in (0, 2))
    assert [facts.path for facts in there] == paths
    assert list(map(settled, there)) == list(map(settled, here))
    assert inspect_all([], cache=None) == []


def test_what_was_read_is_not_decoded_again(tmp_path, monkeypatch):
    paths = [make.write(tmp_path / "a.mp4"), make.flip(make.long(tmp_path / "b.mp4"), seed=1)]
    first = inspect_all(paths, cache=tmp_path / "cache", workers=2)
    paths[0].rename(tmp_path / "c.mp4")  # another name, the same content
    monkeypatch.setattr(clips, "inspect_video", lambda *_: pytest.fail("decoded again"))
    second = inspect_all([tmp_path / "c.mp4", paths[1]], cache=tmp_path / "cache", workers=0)
    assert second == [changed(first[0], path=tmp_path / "c.mp4"), first[1]]
    assert len((tmp_path / "cache/clips.jsonl").read_text().splitlines()) == 2


def test_a_clip_that_changed_is_read_again_even_with_the_same_size_and_time(tmp_path):
    path = make.long(tmp_path / "a.mp4")
    times = path.stat()
    assert inspect_all([path], cache=tmp_path / "cache", workers=0)[0].usable
    make.flip(path, seed=1)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert not inspect_all([path], cache=tmp_path / "cache", workers=0)[0].usable


def test_the_cache_lies_where_runs_lie_when_clips_are_read(tmp_path, runs):
    inspect_all([make.write(tmp_path / "a.mp4")], workers=0)
    assert len((runs / clips.CACHE / "clips.jsonl").read_text().splitlines()) == 1


def test_the_cache_keeps_judgements_out(tmp_path):
    path = make.write(tmp_path / "a.mp4")
    inspect_all([path], cache=tmp_path / "cache", workers=0)
    (again,) = inspect_all([path], cache=tmp_path / "cache", workers=0, limits=Limits(bytes=10))
    assert codes(again) == {"huge"}
    assert not inspect_all([path], cache=tmp_path / "cache", workers=0)[0].findings


def test_a_cache_that_was_cut_off_or_is_of_another_version_is_no_trap(tmp_path):
    store = ClipCache(tmp_path)
    for i in range(3):
        store.put(str(i) * 64, "video", Content(frames=i))
    store.put("9" * 64, "video", Content(frames=9, complete=False))
    assert store.get("9" * 64, "video") is None  # the clock stopped it: not a fact
    file = tmp_path / "clips.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole[0].replace(clips.READER.encode(), b"0") + b"[1]\n\xff\n" + whole[1] + whole[2][:40])
    store = ClipCache(tmp_path)
    assert [store.get(d * 64, "video") for d in "0129"] == [None, Content(frames=1), None, None]
    assert store.get("1" * 64, "image") is None
    store.put("2" * 64, "video", Content(frames=2))
    assert ClipCache(tmp_path).get("2" * 64, "video") == Content(frames=2) == store.get("2" * 64, "video")


def test_a_decoder_that_crashes_or_hangs_is_a_finding_and_the_others_are_read():
    paths = [Path(f"{i}-{'crash' if i == 2 else 'hang' if i == 9 else 'fine'}.mp4") for i in range(12)]
    start = time.monotonic()
    found = list(clips._in_workers([paths[:5], paths[5:]], make.scripted, 0.3, None, 2))
    assert time.monotonic() - start < 40  # a sleep of 60 s was cut short
    assert [facts.path for facts in found] == paths
    assert [codes(facts) for facts in found] == [{"crash"} if i in (2, 9) else set() for i in range(12)]
    assert not found[2].usable and not found[9].usable


PARENT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import clip_makers as make
from cookbook.runs import ROOT
from data_tools.passport import clips
if __name__ == "__main__":
    print(os.getpid(), flush=True)
    list(clips._in_workers([[Path("hang-0.mp4")], [Path("hang-1.mp4")]], make.scripted, 60, None, 2))
"""


@pytest.mark.fault("load")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(ROOT / "tests")))
    parent = subprocess.Popen([sys.executable, script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    workers = []
    for _ in range(300):
        workers = [p for p in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        if len(workers) == 2 and all(len(p.threads()) > 1 for p in workers):  # they have begun
            break
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    for process in alive:
        process.kill()
    assert len(workers) == 2 and not alive


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    paths = [make.write(tmp_path / f"{i}.mp4", make.frames(i)) for i in range(2)]
    assert [facts.frames for facts in inspect_all(paths, cache=paths[0] / "cache", workers=0)] == [8, 8]
    assert caplog.text.count("cannot be written") == 1


def test_where_workers_cannot_start_the_clips_are_read_here(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(clips, "_start_worker", make.refuse_to_start)
    paths = [make.write(tmp_path / f"{i}.mp4") for i in range(9)]
    found = inspect_all(paths, cache=None, workers=1)
    assert [facts.path for facts in found] == paths and all(facts.frames == 8 for facts in found)
    assert caplog.text.count("cannot start") == 1
