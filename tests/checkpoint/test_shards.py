"""What a folder says of itself: every way of being no whole checkpoint is refused in one line, before it is loaded."""

import ast
import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from checkpoint_makers import BASE
from pace import seconds
from safetensors.torch import load_file, save_file

from cookbook import checkpoint, inference
from cookbook.checkpoint import INDEX, CheckpointError, find
from cookbook.checkpoint.__main__ import main
from cookbook.checkpoint.verify import verify
from cookbook.runs import ROOT

pytestmark = pytest.mark.fault("local engine")

SHARD, POINTER = "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13\n"


@pytest.fixture
def copy(tmp_path):
    """A copy of the tiny base, to be damaged."""
    return shutil.copytree(BASE, tmp_path / "copy")


def weights(change):
    def damage(folder):
        tensors = load_file(folder / SHARD)
        save_file(change(tensors) or tensors, folder / SHARD, metadata={"format": "pt"})

    return damage


def index(change):
    """An index of its own, of one shard that is not model.safetensors."""

    def damage(folder):
        (folder / SHARD).rename(folder / "00000.safetensors")
        listed = dict.fromkeys(load_file(folder / "00000.safetensors"), "00000.safetensors")
        (folder / INDEX).write_text(json.dumps(change(listed, folder)))

    return damage


def setting(file, **said):
    def damage(folder):
        told = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(told | said))

    return damage


def number(file, key, value):
    """A number of a settings file, by its key, in a table where it stands in one."""

    def damage(folder):
        told = json.loads((folder / file).read_text())
        *tables, last = key.split(".")
        table = told
        for name in tables:
            table = table[name]
        table[last] = value
        (folder / file).write_text(json.dumps(told))

    return damage


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def prefixed(prefix):
    return weights(lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})


def everywhere(file):
    return index(lambda listed, _: {"weight_map": dict.fromkeys(listed, file)})


def linked_out(folder):
    (folder / SHARD).rename(folder.parent / "outside")
    (folder / SHARD).symlink_to(folder.parent / "outside")


def twice(folder):
    index(lambda listed, _: {"weight_map": listed})(folder)
    name, tensor = next(iter(load_file(folder / "00000.safetensors").items()))
    save_file({name: tensor}, folder / "00001.safetensors")


def cut(folder):
    os.truncate(folder / SHARD, 100_000)


def pickled(folder):
    torch.save(load_file(folder / SHARD), folder / "pytorch_model.bin")
    (folder / SHARD).unlink()


WRONG = {
    "cut": (cut, "cut off"),
    "cut in its header": (lambda folder: os.truncate(folder / SHARD, 20), "cut off"),
    "longer than its header says": (lambda folder: (folder / SHARD).open("ab").write(b"\0" * 8), "cannot be read"),
    "empty": (text(SHARD, ""), "is empty"),
    "a pointer": (text(SHARD, POINTER), "git lfs pull"),
    "a page of a proxy": (text(SHARD, "<!DOCTYPE html><html>sign in</html>"), "cannot be read"),
    "a tokenizer that is a pointer": (text("tokenizer.json", POINTER), "tokenizer.json is a Git-LFS pointer"),
    "of DistributedDataParallel": (prefixed("module."), "DistributedDataParallel"),
    "of torch.compile": (prefixed("_orig_mod."), r"take '_orig_mod\.' off"),
    "of peft": (prefixed("base_model.model."), "named by peft"),
    "quantized": (weights(lambda t: {n: v.to(torch.int8) for n, v in t.items()}), "quantized"),
    "an index that leads up": (everywhere("../outside.safetensors"), "leads out of the folder"),
    "an index with an absolute path": (everywhere("/etc/passwd"), "leads out of the folder"),
    "an index of a missing shard": (everywhere("00007.safetensors"), "names 00007.safetensors, not there"),
    "an index of more tensors": (index(lambda listed, _: {"weight_map": listed | {"a.b": "00000.safetensors"}}), "a.b"),
    "an index of fewer tensors": (
        index(lambda listed, _: {"weight_map": dict(list(listed.items())[3:])}), "not in the index"),
    "an index that is no index": (index(lambda *_: ["weight_map"]), "cannot be read"),
    "an index without a map": (index(lambda *_: {}), "cannot be read"),
    "an index of numbers": (everywhere(3), "cannot be read"),
    "a link that leads out": (linked_out, "leads out of the folder"),
    "a link to itself": (
        lambda folder: ((folder / SHARD).unlink(), (folder / SHARD).symlink_to(SHARD)), "cannot be read"),
    "a folder in its place": (lambda folder: ((folder / SHARD).unlink(), (folder / SHARD).mkdir()), "cannot be read"),
    "a quantization": (setting("config.json", quantization_config={"quant_method": "awq"}), "names a quantization"),
    "a tensor twice": (twice, "in 00000.safetensors and in 00001.safetensors"),
    "a pickle": (pickled, "never read"),
    "a pickle beside a stray shard": (
        lambda folder: (pickled(folder), save_file({"a": torch.zeros(1)}, folder / "a.safetensors")),
        "names model.safetensors, not there"),
    "another architecture": (setting("config.json", model_type="llama"), "'llama'; supported are qwen2_5_vl"),
    "no architecture": (text("config.json", "{}"), "no model_type"),
    "a configuration that is cut": (text("config.json", '{"model_type":'), "config.json cannot be read"),
    "a configuration that is a list": (text("config.json", "[1]"), "no JSON object"),
    "code for the model": (setting("config.json", auto_map={"AutoConfig": "evil.C"}), r"auto_map"),
    "code for the processor": (setting("preprocessor_config.json", auto_map={"AutoProcessor": "evil.P"}), "auto_map"),
    "code for the tokenizer": (setting("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T"]}), "auto_map"),
    "no tokenizer.json": (
        lambda folder: (folder / "tokenizer.json").unlink(), r"holds no tokenizer\.json.* Copy it from the base"),
    "a table in a table without end": (text("config.json", '{"a":' * 9999), "config.json cannot be read"),
}  # fmt: skip
IMAGE, VIDEO, MODEL = "preprocessor_config.json", "video_preprocessor_config.json", "config.json"
ODD_NUMBERS = [  # file, key, what no model can compute with
    *((IMAGE, "image_mean", value) for value in ([math.nan, 0, 0], [0, 0], 0.5, "0.5", [0, 0, "0"], [])),
    *((IMAGE, "image_std", value) for value in ([0, 1, 1], [1, 1, math.inf], [1], [1, -1, 1], [1, 1, True])),
    *((IMAGE, "rescale_factor", value) for value in (0, -1.0, math.nan, math.inf, "1/255")),
    *((IMAGE, key, 0) for key in ("patch_size", "temporal_patch_size", "merge_size", "min_pixels")),
    (IMAGE, "size.longest_edge", math.inf), (VIDEO, "image_std", [math.nan] * 3), (VIDEO, "patch_size", -14),
    *((MODEL, "text_config.rope_theta", value) for value in (0, -1e4, math.nan, math.inf, "10000", [1e4, "x"])),
    *((MODEL, "text_config.rope_scaling.mrope_section", v) for v in ([4, 6], [8, 8, 0], [4, 6, "6"], 16, "4,6,6")),
    (MODEL, "text_config.rms_norm_eps", math.nan), (MODEL, "text_config.num_attention_heads", 0),
    (MODEL, "vision_config.spatial_merge_size", 0), (MODEL, "vision_config.window_size", -112),
    (MODEL, "vision_config.tokens_per_second", math.nan), ("generation_config.json", "temperature", math.nan),
]  # fmt: skip


@pytest.mark.parametrize(("file", "key", "value"), ODD_NUMBERS)
def test_a_number_that_no_model_can_compute_with_is_named_by_file_and_field(copy, file, key, value):
    number(file, key, value)(copy)
    with pytest.raises(CheckpointError) as caught:
        find(copy)
    told = str(caught.value)
    assert f"{copy}: {file} says {key} = {value!r}, which takes " in told and "\n" not in told


@pytest.mark.parametrize("damage, words", WRONG.values(), ids=WRONG)
def test_what_is_no_whole_checkpoint_is_refused_in_one_line_before_it_is_loaded(copy, damage, words):
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    damage(copy)
    with pytest.raises(CheckpointError, match=words) as caught:
        find(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a pointer", "code for the model", "an index of numbers"])
def test_verify_lists_it_and_raises_nothing(copy, name):
    damage, words = WRONG[name]
    damage(copy)
    told = [check.found for check in verify(copy, BASE).checks if check.status == "error"]
    assert any(re.search(words, found) for found in told), told


def test_a_snapshot_of_the_hubs_cache_is_made_of_links_and_whole(tmp_path):
    snapshot = shutil.copytree(BASE, tmp_path / "models--nvidia--X" / "snapshots" / "4d7a")
    (tmp_path / "models--nvidia--X" / "blobs").mkdir()
    (snapshot / SHARD).rename(tmp_path / "models--nvidia--X" / "blobs" / "77aa")
    (snapshot / SHARD).symlink_to("../../blobs/77aa")
    assert find(snapshot) == snapshot
    for above in (snapshot.parents[1], tmp_path):
        with pytest.raises(CheckpointError, match=f"Was {snapshot} meant"):
            find(above)


def test_what_was_meant_is_named(tmp_path):
    trainer, empty = tmp_path / "trainer", tmp_path / "empty"
    for step in (90, 100):
        os.utime(shutil.copytree(BASE, trainer / f"checkpoint-{step}"), (step, step))
    empty.mkdir()
    for path, words in (
        (trainer, "checkpoint-100 meant"),
        (empty, "It is empty"),
        (BASE / "config.json", "is a file; name the checkpoint's folder: models/tiny-base"),
        (tmp_path / "nowhere", "no such folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            find(path)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch, copy):
    monkeypatch.setattr(os, "access", lambda place, _: place != copy)  # root may read everything
    with pytest.raises(CheckpointError, match="may not be read by this user"):
        find(copy)


@pytest.mark.parametrize("command", ["verify", "lineage", "merge", "inference", "predict"])
@pytest.mark.parametrize("what", ["nowhere", "empty", "file", "parent", "adapter"])
def test_every_command_says_it_in_one_line(command, what, tmp_path, copy, capsys):
    from cookbook.evaluation.__main__ import main as evaluation

    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    path = {"nowhere": tmp_path / "x", "file": copy / "config.json", "parent": tmp_path}.get(what, tmp_path / what)
    (copy / SHARD).touch()
    words = {
        "inference": (inference.main, "--model_path", path, "--video", "x.mp4"),
        "predict": (evaluation, "predict", "--model", path, "--data", "x", "--out", tmp_path / "o.jsonl"),
        "merge": (main, "merge", path, tmp_path / "out"),
    }.get(command, (main, command, path))
    if (command, what) == ("verify", "empty"):
        return  # a folder is verified as it is: the checks say what it lacks
    code = words[0]([str(word) for word in words[1:]])
    shown = capsys.readouterr()
    if (command, what) in (("verify", "parent"),):
        assert code == 1
        return
    assert code == 2 and not shown.out, shown
    assert len(shown.err.splitlines()) == 1 and str(tmp_path) in shown.err


def test_no_code_that_a_checkpoint_brings_is_ever_run(copy):
    """Whatever is loaded says so: `trust_remote_code` is false in every call of the project."""
    places = ("cookbook", "data_tools", "models", "tests", "notebooks")
    files = [file for place in places for file in (ROOT / place).rglob("*.py")]
    calls = [
        (file, call)
        for file in files
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".from_pretrained")
        and ast.unparse(call.func).startswith("Auto")
    ]  # fmt: skip
    assert len(calls) > 10
    for file, call in calls:
        said = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert said.get("trust_remote_code") == "False", f"{file}:{call.lineno}"
    assert not [f for f in ROOT.glob("notebooks/**/*.ipynb") if "trust_remote_code" in f.read_text(encoding="utf-8")]


def test_the_checks_are_quick(copy):
    assert min(seconds(checkpoint.find, copy) for _ in range(10)) < 0.5  # 0.01; reading the weights takes seconds


def test_a_command_says_one_line_and_nothing_that_packages_announce():
    words = [sys.executable, "-m", "cookbook.inference", "--model_path", "nowhere/at/all", "--video", "x.mp4"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
