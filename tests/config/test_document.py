"""Configurations: the engine's keys and defaults, nothing dropped in silence; and two of them compared."""

import json
import sys

import pytest
from engine_process import in_engine

from cookbook.config import Config, ConfigError, difference, lint
from cookbook.config.__main__ import main
from cookbook.config.schema import SCHEMA
from cookbook.runs import ROOT

SHIPPED = sorted([*(ROOT / "configs").glob("*.toml"), *(ROOT / "configs/reason2").glob("*.toml")])
RECIPES = sorted((ROOT / "configs/recipes").glob("*.toml"))
SFT, AVHA = ROOT / "configs/sft.toml", ROOT / "configs/avha_sft.toml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_files_hold_only_keys_that_the_engine_knows(path):
    assert Config.load(path).stated


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.epochs", "train.epoch"),
        ("train.train_policy.kl_betta", "train.train_policy.kl_beta"),
        ("rollout_batch_size", "rollout.batch_size"),
        ("grpo.n_generation", "rollout.n_generation"),
        ("train.model_gradient_checkpointing", "policy.model_gradient_checkpointing"),
    ],
)
def test_an_unknown_key_is_refused_and_the_real_one_named(key, hint):
    with pytest.raises(ConfigError, match=f"{key}.*{hint}"):
        Config.load("configs/tiny_rl.toml").edit({key: 1})


def test_an_edit_of_the_wrong_type_is_refused():
    with pytest.raises(ConfigError, match=r"train\.epoch: takes a whole number"):
        Config.load("configs/tiny_sft.toml").edit({"train.epoch": "50"})


def test_a_line_is_that_of_the_key_or_of_its_nearest_table():
    text = 'mode = "x"\n[train]\nnote = """\nepoch = 1\n"""\nepoch = 2\n[train.ckpt]\n"save_freq" = 3\n[a]\nb.c = 4\n'
    config = Config.parse(text)
    keys = ("mode", "train.epoch", "train.ckpt.save_freq", "a.b.c", "train.ckpt.max_keep", "policy.x")
    assert [config.line(key) for key in keys] == [1, 6, 8, 10, 7, 1]


def test_a_file_with_an_unknown_key_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('[train]\nepochs = 50\n[train.train_policy]\ntype = "sft"\n')
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        Config.load(path)


def test_what_a_file_leaves_out_has_the_engines_default():
    config = Config.load("configs/tiny_sft.toml")
    assert config["train.optm_warmup_start_factor"] == 0.0
    assert config["train.ckpt.save_mode"] == "async"


def test_an_edit_keeps_comments_and_leaves_the_original(tmp_path):
    config = Config.load("configs/tiny_sft.toml")
    edited = config.edit({"train.epoch": 7, "custom.clips": 5})
    assert (config["train.epoch"], edited["train.epoch"], edited.table("custom")["clips"]) == (2, 7, 5)
    assert "# samples a step" in edited.text()


def test_missing_and_broken_files_say_so(tmp_path):
    with pytest.raises(ConfigError, match="no such"):
        Config.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Config.load(tmp_path / "broken.toml")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[train]\nepoch = 1\n[policy]\nname = 1\nname = 2\n", 5),
        ("x = [\n1,\n]\nepoch = 1\nepoch.x = 2\n", 5),
        ("[train]\n[policy]\n[train]\nepoch = 1\n", 4),
    ],
)
def test_what_stands_twice_is_reported_where_it_stands_again(text, line):
    with pytest.raises(ConfigError, match=f"config:{line}: not valid TOML .*already exists"):
        Config.parse(text)


def test_a_quoted_name_with_dots_and_a_table_on_one_line_are_read_and_edited():
    custom = Config.parse('[train.optm_lr]\n"visual.blocks" = 1e-6 # slow\n[policy.lora]\nrank_pattern = {"a.b" = 3}\n')
    why = {key: why for key, _, _, why in difference(Config.parse(""), custom).rows}
    assert why == {"train.optm_lr.visual.blocks": "slow", "policy.lora.rank_pattern.a.b": ""}
    edited = Config.parse("policy = {model_max_length = 8}\n").edit({"policy.parallelism.tp_size": 1})
    assert Config.parse(edited.text())["policy.parallelism.tp_size"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")
def test_the_schema_and_the_files_are_what_the_engine_takes():
    """The schema is current, every stated value comes back."""
    program = (
        "import json, sys, tomlkit\n"
        "from cosmos_rl.policy.config import Config\n"
        "out = {'schema': Config.model_json_schema(), 'files': {}}\n"
        "for path in sys.argv[1:]:\n"
        "    config = Config.from_dict(tomlkit.parse(open(path).read()).unwrap())\n"
        "    out['files'][path] = config.model_dump(mode='json')\n"
        "print('RESULT' + json.dumps(out))\n"
    )
    result = in_engine(program, *SHIPPED, *RECIPES)
    assert result["schema"] == json.loads(SCHEMA.read_text())
    for path in SHIPPED + RECIPES:
        for key, value in Config.load(path).stated.items():
            got = result["files"][str(path)]
            for part in key.split("."):
                got = got[part]
            # the engine makes a list of a single split
            assert got == value or (key.endswith("dataset.split") and got == [value]), key


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_a_shipped_file_opens_with_what_it_is_for_and_its_hardware(path):
    head = path.read_text().split("\n\n")[0]
    assert "Hardware:" in head or "CPU" in head
    assert "Change first:" in head and (f"--config {path.relative_to(ROOT)} " in head or "papermill" in head)
    if Config.load(path).kind == "grpo":
        assert Config.load(path)["train.train_policy.kl_beta"] > 0
    assert lint(Config.load(path)) == []


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
