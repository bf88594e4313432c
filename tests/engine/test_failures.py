"""Kinds of failure: told apart, and looked for in words that the installed packages still say."""

import sys
from pathlib import Path

import pytest

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
    assert failure_kind(words.replace("{HUGGINGFACE_CO_RESOLVE_ENDPOINT}", "https://huggingface.co")) == kind
