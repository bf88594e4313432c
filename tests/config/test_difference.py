"""The difference of two configurations: what changed, in the words of both files."""

import pytest

from cookbook.config import Config, difference
from cookbook.config.__main__ import main
from cookbook.runs import ROOT

SFT, AVHA = ROOT / "configs/sft.toml", ROOT / "configs/avha_sft.toml"


def test_the_worked_example_differs_from_the_default_in_the_rows_that_it_explains():
    rows = difference(Config.load(SFT), Config.load(AVHA)).rows
    dataset = "train.train_policy.dataset"
    assert {key: (default, custom) for key, default, custom, _ in rows} == {
        "train.epoch": ("1", "50"),
        "train.output_dir": ('"./outputs/sft"', '"./outputs/avha_sft_vqa_standard"'),
        f"{dataset}.name": ('"nvidia/Cosmos-Reason1-SFT-Dataset"', '"/path/to/your/local/dataset"'),
        f"{dataset}.subset": ('"robovqa"', "removed"),
        f"{dataset}.split": ('"understanding"', "removed"),
        "train.ckpt.save_freq": ("100", "50"),
        "train.ckpt.max_keep": ("2", "4"),
        "policy.parallelism.dp_shard_size": ("4", "8"),
        "logging.project_name": ('"cosmos_reason1"', '"cosmos_reason1_vqa"'),
        "logging.experiment_name": ('"post_training/sft"', '"post_training/avha_sft_vqa_standard"'),
    }
    assert all(why for *_, why in rows)


def test_rows_stand_in_the_order_of_the_default_file_and_new_keys_last():
    default = Config.load(SFT)
    keys = [key for key, *_ in difference(default, Config.load(AVHA).edit({"train.resume": True, "custom.x": 1})).rows]
    assert keys == sorted(keys, key=[*default.stated, "custom.x"].index)


def test_the_difference_of_an_edit_is_the_edit():
    config = Config.load(SFT)
    assert difference(config, config.edit({"custom.note": "a | b"})).rows == [
        ("custom.note", "not stated", '"a | b"', "")
    ]
    assert difference(config, config).rows == []


@pytest.mark.parametrize("value", ["true", "3", '"x # y"', "[1, 2]"])
def test_the_reason_is_the_comment_beside_a_value_of_any_type(value):
    default, custom = Config.parse("[train]\nx = 0\n"), Config.parse(f"[train]\nx = {value}  # because\n")
    assert difference(default, custom).rows == [("train.x", "0", value, "because")]


@pytest.mark.parametrize("changes", [{}, {"custom.note": "a | b"}], ids=["shipped", "with a bar"])
def test_the_command_prints_markdown_with_one_row_a_key(changes, tmp_path, capsys):
    (tmp_path / "custom.toml").write_text(Config.load(AVHA).edit(changes).text())
    assert main(["diff", str(SFT), str(tmp_path / "custom.toml")]) == 0
    head, ruler, *rows = capsys.readouterr().out.splitlines()
    assert (head, ruler) == ("| key | default | custom | why |", "|---|---|---|---|")
    assert len(rows) == 10 + len(changes)
    assert all(row.replace(r"\|", "").count("|") == 5 for row in rows)
