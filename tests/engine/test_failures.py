"""Kinds of failure: told apart, and looked for in words that the installed packages still say."""

import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from cookbook.engine.failures import failure_kind
from cookbook.runs import ROOT


def test_kinds_are_told_apart():
    assert failure_kind("nothing known", "stall") == "stall"
    assert failure_kind("in __getitem__\nMemory: CUDA out of memory") == "memory"
    for file in ("training/rewards.py", "engine/reward_calls.py"):  # ours, however they are called
        assert failure_kind(f'File "/x/cookbook/{file}", line 9, in overlong') == "reward"
        assert (ROOT / "cookbook" / file).is_file()


@pytest.mark.parametrize(
    "kind, file, words",
    [("attention", "cosmos_rl/policy/kernel/modeling_utils.py", "FlashAttention is not installed"),
     ("attention", "transformers/modeling_utils.py", "FlashAttention2 has been toggled on"),
     ("weights", "transformers/modeling_utils.py", "no file named {_add_variant(SAFE_WEIGHTS_NAME, variant)}"),
     ("weights", "transformers/configuration_utils.py", "is not a valid JSON file"),
     ("length", "transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py", "features and video tokens do not match"),
     ("hub", "transformers/utils/hub.py", "We couldn't connect to '{HUGGINGFACE_CO_RESOLVE_ENDPOINT}'"),
     ("hub", "datasets/load.py", "Couldn't reach '{path}' on the Hub"),
     ("hub", "datasets/load.py", "on the Hub or cannot be accessed"),
     ("hub", "datasets/load.py", "is a gated dataset on the Hub")],
)  # fmt: skip
def test_the_installed_packages_still_say_what_the_patterns_look_for(kind, file, words):
    place = next((p for p in map(Path, sys.path) if (p / file).is_file()), None)
    if place is None:
        pytest.skip(f"{file} is not installed here")
    assert words in (place / file).read_text(encoding="utf-8")
    assert failure_kind(words.replace("{HUGGINGFACE_CO_RESOLVE_ENDPOINT}", "https://huggingface.co").replace(
        "{_add_variant(SAFE_WEIGHTS_NAME, variant)}", "model.safetensors")) == kind  # fmt: skip


WORDS = "ValueError: Videos features and video tokens do not match: tokens: {}, features {}"


@pytest.mark.fault("local engine")
@pytest.mark.parametrize(
    "kind, text",
    [("placeholder", WORDS.format(0, 16)), ("length", WORDS.format(2, 16)), ("control", WORDS.format(17, 16)),
     ("placeholder", "ValueError: 0 placeholders of kind video in the text for 1 files"),
     ("control", "ValueError: the text of a conversation must not hold the special token '<|endoftext|>'")],
)  # fmt: skip
def test_a_lost_placeholder_a_control_token_and_a_long_sample_are_told_apart(kind, text):
    assert failure_kind(text) == kind


@pytest.mark.fault("local engine")
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", b"<!DOCTYPE h>"]
)
def test_what_a_library_says_of_broken_weights_is_known(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SafetensorError) as caught:
        safe_open(tmp_path / "model.safetensors", "pt")
    assert failure_kind(f"{caught.type.__module__}.{caught.type.__name__}: {caught.value}") == "weights"
