"""Lineage: from a checkpoint back to its base, and what each stage was made of."""

import json

import pytest
from checkpoint_makers import BASE, make

from cookbook.checkpoint.__main__ import main
from cookbook.checkpoint.lineage import lineage, tree


def run(folder, kind, start, step, **facts):
    make(folder / "safetensors" / f"step_{step}")
    told = {"start": str(start), "seed": 7, "commit": "4054350c6863ca94ccc0d8c0ab3ad67b87960078-dirty", **facts}
    (folder / "manifest.json").write_text(json.dumps(told))
    (folder / "config.toml").write_text(f'[train.train_policy]\ntype = "{kind}"\n')


def test_the_lineage_goes_from_the_base_to_the_last_step(tmp_path):
    sft, rl = tmp_path / "job" / "sft", tmp_path / "job" / "rl"
    run(sft, "sft", "models/tiny-base", 48, data="job/data", passport="87b0", contract="8368")
    run(rl, "grpo", sft, 12, contract="8368")
    stages = lineage(rl)
    assert [s.kind for s in stages] == ["base", "SFT", "RL"]
    assert [s.place for s in stages] == ["models/tiny-base", str(sft), str(rl)]
    known = {"export": "step_48", "data": "job/data", "passport": "87b0", "contract": "8368", "seed": "7"}
    assert known.items() <= stages[1].facts.items() and stages[1].facts["commit"] == "4054350c6863-dirty"
    assert stages[1].facts["config"] != stages[2].facts["config"]
    assert lineage(rl / "safetensors" / "step_12") == stages
    first, second, third = tree(stages).splitlines()
    assert first == "base: models/tiny-base" and second.startswith("└─ SFT: ") and third.startswith("   └─ RL: ")


def test_a_base_from_the_hub_is_named_and_a_circle_is_refused(tmp_path, capsys):
    run(tmp_path / "a", "sft", "nvidia/Cosmos-Reason1-7B", 1)
    assert [s.place for s in lineage(tmp_path / "a")] == ["nvidia/Cosmos-Reason1-7B", str(tmp_path / "a")]
    run(tmp_path / "b", "grpo", tmp_path / "b", 1)
    with pytest.raises(ValueError, match="back to itself"):
        lineage(tmp_path / "b")
    assert main(["lineage", str(tmp_path / "b")]) == 2
    assert main(["lineage", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert [s.kind for s in lineage(BASE)] == ["base"]


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("bad", [b"{", b"[1]", b"null", b"", b"\xff\xfe{}"])
def test_a_damaged_manifest_is_named(tmp_path, capsys, bad):
    run(tmp_path / "a", "sft", BASE, 1)
    (tmp_path / "a" / "manifest.json").write_bytes(bad)
    assert main(["lineage", str(tmp_path / "a/safetensors/step_1")]) == 2
    told = capsys.readouterr().err
    assert "a/manifest.json: " in told and "mend it, or delete it" in told and told.count("\n") == 1
