"""The lint: every wrong configuration is refused with key, line and fix; no good one is."""

import json
import re
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import tomlkit
from pace import linear, seconds

from cookbook.config import Config, ConfigError, lint, plan, require, schema
from cookbook.config.__main__ import main
from cookbook.config.patterns import hits, parameter_names
from cookbook.runs import ROOT

SHIPPED = sorted(p.name for p in (ROOT / "configs").glob("*.toml"))
SFT, RL, COLOCATED, LORA = "sft_8gpu.toml", "rl_8gpu.toml", "rl_2gpu.toml", "sft_1gpu_lora.toml"


def changed(name: str, changes: dict[str, Any]) -> Config:
    """A shipped file with dotted keys set, or removed where the value is None; nothing is checked."""
    document = tomlkit.parse((ROOT / "configs" / name).read_text())
    for key, value in changes.items():
        *tables, last = key.split(".")
        node = document
        for table in tables:
            node = node.setdefault(table, tomlkit.table())
        if value is None:
            del node[last]
        else:
            node[last] = value
    return Config.parse(tomlkit.dumps(document), name)


@dataclass
class Wrong:
    """One wrong configuration: the change, the key that must be named, words of the fix."""

    base: str
    changes: dict[str, Any]
    key: str
    fix: str
    known: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return ",".join([self.base.split(".")[0], *(f"{k}={v}" for k, v in (self.changes | self.known).items())])


def one(base: str, key: str, value: Any, fix: str) -> Wrong:
    """A single wrong key, which is also the key that must be named."""
    return Wrong(base, {key: value}, key, fix)


POLICY, ROLLOUT, TP = "policy.parallelism", "rollout.parallelism", "train.train_policy"
WRONG = [
    # typos
    one(SFT, "train.epochs", 50, "train.epoch"),
    one(SFT, "train.optim_lr", 1e-6, "train.optm_lr"),
    one(SFT, "train.train_batch_per_replicas", 32, "train.train_batch_per_replica"),
    one(SFT, "train.output_directory", "x", "train.output_dir"),
    one(SFT, "train.optm_grad_clip", 1.0, "train.optm_grad_norm_clip"),
    one(SFT, "train.ckpt.enable_checkpoints", True, "train.ckpt.enable_checkpoint"),
    one(SFT, "train.ckpt.save_frequency", 50, "train.ckpt.save_freq"),
    one(SFT, "policy.model_max_len", 4096, "policy.model_max_length"),
    one(SFT, f"{POLICY}.dp_shard", 8, f"{POLICY}.dp_shard_size"),
    one(SFT, "logging.loggers", ["console"], "logging.logger"),
    one(SFT, "validation.enabled", True, "validation.enable"),
    one(SFT, f"{TP}.minibatch", 4, f"{TP}.mini_batch"),
    one(LORA, "policy.lora.alpha", 32, "policy.lora.lora_alpha"),
    one(RL, f"{TP}.kl_betta", 0.01, f"{TP}.kl_beta"),
    one(RL, f"{TP}.reward_functions", ["format"], f"{TP}.reward_function"),
    one(RL, f"{TP}.epsilon_hi", 0.3, f"{TP}.epsilon_high"),
    one(RL, "rollout.n_generations", 4, "rollout.n_generation"),
    one(RL, "rollout.max_response_len", 512, "rollout.max_response_length"),
    one(RL, "rollout.gpu_memory_utilisation", 0.7, "rollout.gpu_memory_utilization"),
    one(RL, "rollout.sampling_config.temprature", 0.9, "rollout.sampling_config.temperature"),
    # a key of another table
    one(SFT, "epoch", 50, "train.epoch"),
    one(SFT, "train.model_gradient_checkpointing", True, "policy.model_gradient_checkpointing"),
    one(SFT, "train.model_max_length", 4096, "policy.model_max_length"),
    one(SFT, "train.mini_batch", 4, f"{TP}.mini_batch"),
    one(SFT, "train.enable_checkpoint", True, "train.ckpt.enable_checkpoint"),
    one(SFT, "train.dataset.name", "x", "train.train_policy.dataset.name"),
    one(SFT, "policy.dp_shard_size", 8, f"{POLICY}.dp_shard_size"),
    one(SFT, f"{TP}.kl_beta", 0.1, "grpo"),
    one(RL, "train.n_generation", 8, "rollout.n_generation"),
    one(RL, "train.kl_beta", 0.01, f"{TP}.kl_beta"),
    one(COLOCATED, "logging.mode", "colocated", "mode"),
    # dead keys, and names of other libraries
    one(SFT, "train.enable_validation", True, "validation.enable"),
    one(SFT, "train.validation_step", 30, "validation.freq"),
    one(SFT, "train.validation_batch_per_replica", 2, "validation.batch_size"),
    one(SFT, f"{POLICY}.cp_rotate_method", "allgather", "delete the line"),
    one(SFT, "train.learning_rate", 1e-6, "train.optm_lr"),
    one(SFT, "train.per_device_train_batch_size", 4, "train.train_batch_per_replica"),
    one(RL, "grpo.num_samples_per_prompt", 4, "rollout.n_generation"),
    one(RL, f"{TP}.rollout_batch_size", 32, "rollout.batch_size"),
    one(RL, "grpo.kl_penalty", 0.01, f"{TP}.kl_beta"),
    one(RL, "rollout.max_new_tokens", 512, "rollout.max_response_length"),
    # types and choices
    one(SFT, "train.epoch", "50", "a whole number"),
    one(SFT, "train.epoch", 1.5, "a whole number"),
    one(SFT, "train.compile", "false", "true or false"),
    one(SFT, "train.optm_lr", "1e-6", "a number"),
    one(SFT, "train.optm_betas", 0.9, "a list"),
    one(SFT, "train.resume", 1, "true or false"),
    one(SFT, "redis", 12800, "a text"),
    one(SFT, "logging.logger", "console", "a list"),
    one(SFT, "train.optm_name", "adamw", "'AdamW'"),
    one(SFT, "train.param_dtype", "bf16", "'bfloat16'"),
    one(SFT, "train.ckpt.save_mode", "background", "'async'"),
    one(SFT, "policy.parallelism", 8, "[policy.parallelism]"),
    Wrong(SFT, {"train.epoch": {"first": 1}}, "train.epoch.first", "a whole number"),
    one(RL, f"{TP}.type", "dpo", "'grpo'"),
    one(RL, f"{TP}.variant", "drgrpo", "'dapo'"),
    one(COLOCATED, "mode", "collocated", "'colocated'"),
    # values
    one(SFT, "train.epoch", 0, "at least 1"),
    one(SFT, "train.optm_lr", 0.0, "above 0"),
    one(SFT, "train.optm_betas", [0.9, 1.0], "below 1"),
    one(SFT, f"{TP}.mini_batch", 0, "at least 1"),
    one(SFT, "train.ckpt.save_freq", 0, "at least 1"),
    one(RL, "rollout.n_generation", 1, "at least 2"),
    one(RL, f"{TP}.kl_beta", -0.1, "at least 0"),
    one(RL, f"{TP}.temperature", 0.0, "above 0"),
    one(RL, "rollout.gpu_memory_utilization", 1.0, "0.95"),
    # GPUs
    Wrong(RL, {f"{POLICY}.dp_shard_size": 8, f"{ROLLOUT}.tp_size": 2}, f"{POLICY}.dp_shard_size", "write 4"),
    Wrong(SFT, {}, f"{POLICY}.dp_shard_size", "write 4", {"gpus": 4}),
    Wrong(SFT, {}, f"{POLICY}.dp_shard_size", "1, 2, 4 or 8", {"gpus": 6}),
    one(SFT, f"{POLICY}.dp_shard_size", -1, "write the number of GPUs"),
    one(SFT, f"{POLICY}.tp_size", 3, "1, 2 or 4"),
    one(SFT, "mode", "colocated", "remove the line"),
    one(RL, f"{POLICY}.dp_replicate_size", 2, "n_init_replicas"),
    one(COLOCATED, f"{ROLLOUT}.dp_shard_size", 1, "the policy's sizes"),
    one(COLOCATED, f"{ROLLOUT}.n_init_replicas", 2, "write 1"),
    # batches
    one(SFT, f"{TP}.mini_batch", 5, "write 4"),
    one(RL, f"{TP}.mini_batch", 3, "write 2"),
    one(RL, "rollout.n_generation", 6, "write 4"),
    one(RL, f"{TP}.batch_size_per_optimize", 48, "multiple"),
    Wrong(RL, {"train.train_batch_per_replica": 126}, f"{TP}.mini_batch", "a multiple of 4"),
    Wrong(SFT, {}, "train.train_batch_per_replica", "256 samples", {"samples": 200}),
    Wrong(SFT, {f"{POLICY}.pp_size": 2, f"{POLICY}.dp_shard_size": 4, f"{POLICY}.pp_micro_batch_size": 5},
          f"{POLICY}.pp_micro_batch_size", "multiple"),
    # lengths
    one(RL, "rollout.max_response_length", 10240, "must hold the prompt"),
    Wrong(RL, {}, "policy.model_max_length", "11144", {"tokens": 5000}),
    Wrong(SFT, {}, "policy.model_max_length", "5000 or more", {"tokens": 5000}),
    # left out, where the default bites
    one(SFT, f"{TP}.type", None, 'type = "sft"'),
    one(SFT, "train.output_dir", None, "write where"),
    one(SFT, "train.ckpt.enable_checkpoint", None, "write true"),
    one(SFT, "policy.model_name_or_path", None, "write the model's name"),
    one(SFT, f"{POLICY}.tp_size", None, "write 1"),
    one(RL, f"{ROLLOUT}.tp_size", None, "write 1"),
    # keys that contradict each other
    one(LORA, "policy.lora.target_modules", None, "all-linear"),
    one(LORA, "policy.lora.target_modules", [""], "all-linear"),
    one(LORA, "policy.lora.target_modules", "q_proj", "all-linear"),
    Wrong(LORA, {"policy.lora": {}}, "policy.lora.target_modules", "all-linear"),
    one(LORA, "policy.lora.lora_alpha", 0, "above 0"),
    one(LORA, "policy.lora.lora_dropout", 2.0, "below 1"),
    Wrong(RL, {"policy.lora": {"r": 16, "target_modules": "all-linear"}, "train.compile": True}, "train.compile",
          "must be false"),
    one(COLOCATED, "train.compile", True, "must be false"),
    one(SFT, "train.async_tp_enabled", True, "write false"),
    Wrong(RL, {f"{TP}.on_policy": True, "train.sync_weight_interval": 2}, "train.sync_weight_interval", "must be 1"),
    Wrong(SFT, {"policy.freeze_pattern": ["a"], "policy.trainable_pattern": ["b"]}, "policy.freeze_pattern",
          "keep one"),
    Wrong(SFT, {"train.ckpt.upload_s3": "final"}, "train.ckpt.s3_bucket", "must be stated"),
    Wrong(SFT, {"train.optm_lr": {"visual": 1e-6}}, "train.optm_lr", "global"),
    Wrong(SFT, {f"{TP}.enable_dp_load_balancing": True}, "train.max_num_steps", "must be stated"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_configuration_is_refused_with_key_line_and_fix(wrong):
    config = changed(wrong.base, wrong.changes)
    errors = [f for f in lint(config, **wrong.known) if f.level == "error"]
    told = [f for f in errors if f.key == wrong.key and wrong.fix in f.message]
    assert told, [str(f) for f in errors]
    line = config.text().splitlines()[told[0].line - 1]
    last = next((part for part in reversed(wrong.key.split(".")) if part in line), None)
    assert last, f"line {told[0].line} says {line!r}"
    with pytest.raises(ConfigError, match=wrong.base):
        require(config, **wrong.known)


def test_measuring_after_each_step_of_colocated_grpo_is_warned_of():
    """The local engine can; cosmos-rl 0.4.7 opens the round of step 1 before it, and the worker asks for step 0's."""
    found = [
        f
        for every in (1, 2)
        for f in lint(changed("rl_2gpu.toml", {"validation.enable": True, "validation.freq": every}))
    ]
    assert [(f.key, f.level) for f in found] == [("validation.freq", "warning")]


def test_the_table_is_large_and_no_case_stands_twice():
    assert len({str(w) for w in WRONG}) == len(WRONG) >= 60


# what people rightly write: each is one or two keys away from a shipped file too
GOOD = [
    *((name, {}, {}) for name in SHIPPED),
    (SFT, {}, {"gpus": 8, "samples": 10_000, "tokens": 4096}),
    (SFT, {"train.epoch": 3, "train.optm_lr": 1e-6}, {}),
    (SFT, {"train.optm_lr": [1e-6, 2e-6]}, {}),
    (SFT, {"train.optm_lr": {"global": 1e-6, "visual": 1e-7}}, {}),
    (SFT, {"train.optm_decay_type": "cosine", "train.optm_warmup_steps": 0.03}, {}),
    (SFT, {"train.resume": "outputs/x/checkpoints/step_6/policy"}, {}),
    (SFT, {"custom": {"anything": {"goes": 1}}}, {}),
    (SFT, {"train.ckpt.enable_checkpoint": False}, {}),  # said, so it is meant
    (SFT, {f"{POLICY}.dp_shard_size": 4, f"{POLICY}.tp_size": 2}, {"gpus": 8}),
    (SFT, {f"{POLICY}.dp_shard_size": 4, f"{POLICY}.dp_replicate_size": 2}, {"gpus": 8}),
    (RL, {f"{TP}.kl_beta": 0.0}, {"gpus": 8, "samples": 1000, "tokens": 4096}),
    (RL, {f"{TP}.reward_function": {"single_choice": 1.0, "format": 0.1}}, {}),
    (RL, {"rollout.backend": "my_own"}, {}),
    (RL, {f"{POLICY}.dp_shard_size": 2, f"{ROLLOUT}.tp_size": 2}, {"gpus": 4}),
    (COLOCATED, {"train.epoch": 30}, {"gpus": 2, "samples": 8, "tokens": 1500}),
    (COLOCATED, {f"{POLICY}.dp_shard_size": 8, f"{ROLLOUT}.dp_shard_size": 8}, {"gpus": 8}),
    (LORA, {"policy.lora.target_modules": ["q_proj", "v_proj"]}, {"gpus": 1}),
]


@pytest.mark.parametrize(("name", "changes", "known"), GOOD, ids=str)
def test_a_good_configuration_raises_no_alarm(name, changes, known):
    assert lint(changed(name, changes), **known) == []


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        (SFT, {"train.master_dtype": "bfloat16"}, "train.master_dtype"),  # learns nothing
        (SFT, {"train.sequence_packing": True, f"{TP}.mini_batch": 1}, f"{TP}.mini_batch"),  # packs nothing
        (
            "reason2/8b_rl_4gpu.toml",
            {"train.sequence_packing": True},
            "train.sequence_packing",
        ),  # with flash-attn alone
        (SFT, {"logging.logger": None}, "logging.logger"),
        (SFT, {"train.compile": None}, "train.compile"),
        (SFT, {"train.timestamp": None}, "train.timestamp"),
        (RL, {f"{TP}.kl_beta": None}, f"{TP}.kl_beta"),
        (RL, {"rollout.sampling_config.temperature": None}, f"{TP}.temperature"),
    ],
)
def test_a_default_that_surprises_is_a_warning_and_does_not_stop_a_run(name, changes, key):
    config = changed(name, changes)
    assert [(f.level, f.key) for f in lint(config)] == [("warning", key)]
    assert require(config) is config


def test_all_findings_come_at_once_in_the_order_of_the_file():
    found = lint(changed(SFT, {"train.epochs": 1, f"{TP}.mini_batch": 5, "redis": 12800}))
    assert [f.key for f in found] == ["redis", "train.epochs", f"{TP}.mini_batch"]
    with pytest.raises(ConfigError) as error:
        require(changed(SFT, {"train.epochs": 1, "redis": 12800}))
    assert len(str(error.value).splitlines()) == 2


def test_a_wrong_type_does_not_hide_what_else_is_wrong():
    found = lint(changed(RL, {"rollout.n_generation": "8", f"{TP}.mini_batch": 3}))
    assert {f.key for f in found} >= {"rollout.n_generation", f"{TP}.mini_batch"}


def test_a_file_without_a_train_table_is_refused():
    assert "[train]" in lint(Config.parse('redis = "12800"\n'))[0].message


# what was published


def test_the_guides_sft_snippet_is_refused_for_what_it_does():
    found = {f.key: f.message for f in lint(Config.parse((ROOT / "configs/lessons/guide_sft.toml").read_text()))}
    assert "nothing is saved" in found["train.ckpt.enable_checkpoint"]
    assert "workers take the default 2" in found["policy.parallelism.tp_size"]
    assert "Qwen2.5-VL-7B-Instruct" in found["policy.model_name_or_path"]
    assert {"logging.logger", "train.train_policy.type"} <= set(found)


def test_the_guides_rl_snippet_is_refused_for_what_it_does():
    found = {f.key: f.message for f in lint(Config.parse((ROOT / "configs/lessons/guide_rl.toml").read_text()))}
    assert "workers run SFT" in found["train.train_policy.type"]
    assert "10 GPUs (8 for the policy, 2 for rollouts)" in found["policy.parallelism.dp_shard_size"]
    assert "rollout.n_generation" in found["grpo.num_samples_per_prompt"]
    assert "rollout.batch_size" in found["train.train_policy.rollout_batch_size"]
    assert "default 0" in found["train.train_policy.kl_beta"]
    assert "nothing is saved" in found["train.ckpt.enable_checkpoint"]


# The dead keys of the published training files, by repository and file (public checkouts of 2026-11, cosmos-rl 0.4.7).
VALIDATION = ("train.enable_validation", "train.validation_step", "train.validation_batch_per_replica")
ROTATE = "policy.parallelism.cp_rotate_method"
PUBLISHED_DEAD = {
    "cosmos-reason1/examples/post_training/configs/sft.toml": (SFT, (*VALIDATION, ROTATE)),
    "cosmos-reason1/examples/post_training/configs/rl.toml": (RL, (ROTATE,)),
    "cosmos-cookbook/reason1/av_video_caption_vqa/avha_sft.toml": (SFT, (*VALIDATION, ROTATE)),
    "cosmos-cookbook/reason1/spatial-ai-warehouse/sft.toml": (SFT, (*VALIDATION, ROTATE)),
    "cosmos-cookbook/reason1/intelligent-transportation/sft_config.toml": (SFT, VALIDATION[:1]),
    "cosmos-cookbook/reason2/intelligent-transportation/sft_config.toml": (SFT, VALIDATION[:1]),
    "cosmos-cookbook/reason1/physical-plausibility-check/rl_config.toml": (RL, (ROTATE,)),
}


@pytest.mark.parametrize("published", PUBLISHED_DEAD)
def test_the_dead_keys_of_published_files_are_found(published):
    base, dead = PUBLISHED_DEAD[published]
    values = {ROTATE: "allgather", VALIDATION[0]: True, VALIDATION[1]: 30, VALIDATION[2]: 2}
    assert {f.key for f in lint(changed(base, {key: values[key] for key in dead}))} == set(dead)


# the command line


def test_the_command_names_file_line_and_key_and_says_so_in_its_exit_code(tmp_path, capsys):
    path = tmp_path / "x.toml"
    path.write_text(tomlkit.dumps(changed(SFT, {"train.epochs": 50}).document))
    assert main(["lint", str(ROOT / "configs/sft.toml"), "--tokens", "2000"]) == 0
    assert capsys.readouterr().out == f"{ROOT / 'configs/sft.toml'}: nothing to mend\n"
    assert main(["lint", str(ROOT / "configs/sft.toml")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("note: lengths are not checked: --tokens")
    assert main(["lint", str(path)]) == 1
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("epochs"))
    assert capsys.readouterr().out.startswith(f"{path}:{line}: train.epochs: ")
    assert main(["lint", str(ROOT / "configs/sft.toml"), "--gpus", "2"]) == 1
    assert "2 are visible" in capsys.readouterr().out


def test_the_command_says_what_is_not_toml(tmp_path, capsys):
    path = tmp_path / "x.toml"
    path.write_text("[train]\nepoch = \n")
    assert main(["lint", str(path)]) == 1
    assert f"{path}:2: not valid TOML" in capsys.readouterr().out
    assert main(["lint", str(tmp_path / "none.toml")]) == 1
    assert "no such" in capsys.readouterr().out


@pytest.mark.fault("load")
def test_a_check_takes_milliseconds():
    config = Config.load("configs/rl.toml")
    assert min(seconds(lambda: lint(config, gpus=4, samples=1000, tokens=1000)) for _ in range(5)) < 0.25  # 0.02


# ---- odd values, odd files, long files, patterns ----------------------------------------------------------------

ODD = [float("nan"), float("inf"), -float("inf"), -1, 0, 1.5, 10**400, "text", "", True, [], [1, 2], [[1]], ["a"]]
MEANT = ("_min", "_low", "_delta", "max_keep", "top_k", "max_retry_for_on_policy")  # a number below 0 means something


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("name", [RL, LORA])
def test_no_value_makes_lint_or_plan_fall_over_and_none_that_is_no_number_passes(name):
    base = Config.load(f"configs/{name}")
    for key in [key for key in schema._nodes(base.kind) if not schema.is_table(key, base.kind)]:
        for value in ODD:
            config = copy(base)
            config.stated = {k: v for k, v in base.stated.items() if not k.startswith(f"{key}.")} | {key: value}
            found = lint(config, gpus=4, samples=1000, tokens=2000)
            odd = isinstance(value, int | float) and (value == -1 or not -(2**40) < value < 2**40)
            if odd and not (value == -1 and key.endswith(MEANT)):
                assert any(f.key == key for f in found), (key, value)
            if value in (-1, 0, "text", 10**400):
                plan(config, gpus=4, gpu_gib=80, samples=1000, tokens=2000, advise=False)


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("line", [
    "policy = -1", "policy = true", 'policy = "lora"', "policy = 2026-01-01", "policy.parallelism = false",
    'policy.freeze_pattern = ["("]', 'policy.freeze_pattern = ["*"]', "policy.freeze_pattern = [1]",
    'policy.freeze_pattern = "("', "policy.lora = 1", "train.ckpt = []",
])  # fmt: skip
def test_what_is_no_table_or_no_pattern_is_an_error_of_the_configuration(line):
    config = Config.parse('train.train_policy.type = "sft"\n' + line)
    assert any(found.level == "error" for found in lint(config, gpus=1))
    with suppress(ConfigError):
        assert not plan(config, gpus=1, gpu_gib=80, samples=1000, tokens=2000).fits


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_a_file_of_another_encoding_is_one_line(tmp_path, capsys, encoding):
    file = tmp_path / "odd.toml"
    file.write_text((ROOT / "configs" / SFT).read_text() + "# café\n", encoding=encoding)
    for command in (["lint"], ["plan", "--gpus", "8", "--gpu-gib", "80", "--samples", "9000", "--tokens", "900"]):
        code, told = main([*command, str(file)]), capsys.readouterr()
        if encoding != "utf-8-sig":
            said = told.out + told.err
            assert code == 1 and "is not UTF-8" in said and "save it as UTF-8" in said and said.count("\n") == 1
    assert encoding != "utf-8-sig" or not lint(Config.read(file))


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, ".".join("a" * 3000) + " = 1", "a = 1\na = 2", "\0", "a = " + "9" * 5000]
)
def test_deep_doubled_and_broken_files_are_one_line(text):
    with pytest.raises(ConfigError, match=r"^config:\d+: not valid TOML") as caught:
        Config.parse(text)
    assert "\n" not in str(caught.value)


def test_a_check_takes_no_longer_than_the_file_is_long():
    def of(lines: int) -> Config:
        more = "".join(f"k{i} = nan\n" for i in range(lines))
        return Config.parse((ROOT / "configs" / SFT).read_text() + f"\n[custom.more]\n{more}")

    assert len(lint(of(4000))) >= 4000 and linear(lint, of, 4000)
    assert seconds(lint, changed(SFT, {"train.train_policy.mini_batch": 10**11})) < 5  # hours, if it counted to it


@pytest.mark.fault("inputs")
def test_a_plan_needs_numbers_above_0(capsys):
    command = f"plan {ROOT}/configs/sft.toml --gpus -4 --gpu-gib nan --samples 0 --tokens -1".split()
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "gpus = -4, gpu_gib = nan, samples = 0, tokens = -1" in told and told.count("\n") == 1


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("old", "new", "said"), [
    ("optm_lr = .*", 'optm_lr = {global = "1e-6"}', "train.optm_lr.global: takes a number, not '1e-6'"),
    ("optm_lr = .*", "optm_lr = {global = [1e-6]}", "train.optm_lr.global: takes a number, not [1e-06]"),
    (r"\[policy\]", '[policy]\ntrainable_map = {visual = "no"}', "trainable_map.visual: takes true or false, not 'no'"),
    (r"\[train.train_policy\]", "[[train.train_policy]]", "train.train_policy"),
    (r"\[policy\][\s\S]*", "[policy]\nparallelism = 3\n", "policy.parallelism: is a table"),
])  # fmt: skip
def test_an_odd_table_is_an_issue_of_its_line_and_no_plan(tmp_path, capsys, old, new, said):
    text = (ROOT / "configs" / SFT).read_text()
    (tmp_path / "c.toml").write_text(re.sub(rf"(?m)^{old}", lambda _: new, text, count=1))
    assert main(["lint", str(tmp_path / "c.toml")]) == 1 and said in capsys.readouterr().out
    command = f"plan {tmp_path}/c.toml --gpus 4 --gpu-gib 80 --samples 99 --tokens 9"
    assert main(command.split()) == 1


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("name", "content"), [
    ("model.safetensors.index.json", '{"weight_map": ["a"]}'), ("model.safetensors.index.json", '{"weight_map": 3}'),
    ("model.safetensors", "\5\0\0\0\0\0\0\0[1,2]"), ("preprocessor_config.json", '{"min_pixels": "3136"}'),
    ("preprocessor_config.json", '{"size": [1, 2]}'), ("preprocessor_config.json", '{"size": {"shortest_edge": "a"}}'),
])  # fmt: skip
def test_a_checkpoint_with_an_odd_file_is_an_issue_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    config = changed(SFT, {"policy.model_name_or_path": str(tmp_path), "policy.freeze_pattern": ["x"],
                           "custom.contract": "configs/prompts/captions.yaml"})  # fmt: skip
    assert any(str(tmp_path / name) in f.message for f in lint(config))


REWARD = "train.train_policy.reward_function"
CUSTOM = [  # what is stated, the key that is named, what is said
    ({"custom.test_shar": 0.2}, "custom.test_shar", "no loader of data_tools reads it; did you mean test_share?"),
    ({"custom.test_share": "0.2"}, "custom.test_share", "is '0.2'; it is a share from 0 to 1"),
    ({"custom.accept_left_out": 5}, "custom.accept_left_out", "is 5; it is a share from 0 to 1"),
    ({"custom.subset": "[:1"}, "custom.subset", "it is a text like"),
    ({"custom.media": ["a"]}, "custom.media", "is ['a']; it is a text in quotes"),
    ({"custom.contract": "nowhere.yaml"}, "custom.contract", "'nowhere.yaml': no such file"),
    ({"custom.contract": 3}, "custom.contract", "is 3; it is a text in quotes"),
    ({"custom.loader": "data_tools/nowhere.py"}, "custom.loader", "no such loader file"),
    ({"custom.passport": "nowhere.json"}, "custom.passport", "'nowhere.json': no such file"),
    ({"custom.loader": "data_tools/road_vqa.py", "custom.clip": 3}, "custom.clip",
     "data_tools/road_vqa.py does not read it; did you mean clips?"),
    ({"custom.loader": "data_tools/road_vqa.py", "custom.clips": "3"}, "custom.clips", "is '3'; it is a whole number"),
    ({"custom.loader": "data_tools/wts_vqa.py", "custom.validate": "yes"}, "custom.validate", "it is true or false"),
    ({"custom.loader": "data_tools/llava_sft.py", "custom.fields": ["a"]}, "custom.fields", "does not read it"),
    ({f"{REWARD}.single_choise": 1.0}, REWARD, "names single_choise, which is none of single_choice, format"),
    ({f"{REWARD}.boxed_math": 1.0, f"{REWARD}.numeric": 1.0}, REWARD, "names boxed_math, which is none of"),
    ({REWARD: "sinlge_choice"}, REWARD, "names sinlge_choice"),
    ({REWARD: []}, REWARD, "pays for nothing"),
    ({REWARD: ["format", "grammar"]}, REWARD, "names grammar"),
    ({f"{REWARD}.single_choice": 0.0, f"{REWARD}.format": 0.0}, REWARD, "pays for nothing"),
    ({f"{REWARD}.overlong": 1.0, "train.train_policy.overlong_reward.buffer_length": 0},
     "train.train_policy.overlong_reward.buffer_length", "does not lie between 0 and"),
]  # fmt: skip


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(("changes", "key", "said"), CUSTOM)
def test_what_a_loader_or_a_reward_would_refuse_in_a_run_is_found_before_it(tmp_path, capsys, changes, key, said):
    (tmp_path / "c.toml").write_text(changed(RL, changes).text())
    assert main(["lint", str(tmp_path / "c.toml")]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if f" {key}: " in line)
    assert said in line and re.match(rf"{tmp_path}/c.toml:\d+: ", line)


def test_what_the_engine_alone_can_pay_for_and_a_loader_of_ones_own_pass(tmp_path, capsys):
    (tmp_path / "own.py").write_text("def load(config): ...")
    own = {"custom.loader": str(tmp_path / "own.py"), "custom.colour": "red"}
    (tmp_path / "c.toml").write_text(changed(RL, own | {REWARD: ["boxed_math", "gsm8k"]}).text())
    assert main(["lint", str(tmp_path / "c.toml")]) == 0, capsys.readouterr().out


SEVEN = {"policy.model_name_or_path": "nvidia/Cosmos-Reason1-7B"}
TINY_BASE = {"policy.model_name_or_path": "models/tiny-base"}
PATTERNS = [  # the key, a value that hits and how many of the 7B model, and one that hits nothing
    ("policy.freeze_pattern", [r"^visual\."], 390, ["^vision"]),
    ("policy.trainable_pattern", [r"^model\.layers\.[0-3]\."], 48, [r"^layers\."]),
    ("policy.trainable_map", {"visual": False}, 390, {"model.visual": False}),
    ("policy.trainable_map", {"model.norm.weight": False}, 1, {"norm": False}),
    ("train.optm_lr", {"global": 1e-6, "visual": 1e-7}, 390, {"global": 1e-6, "vision": 1e-7}),
    ("policy.lora", {"r": 8, "target_modules": ["q_proj", "v_proj"]}, 28, {"r": 8, "target_modules": ["query"]}),
    ("policy.lora", {"r": 8, "target_modules": "all-linear", "modules_to_save": ["merger"]}, 3,
     {"r": 8, "target_modules": "all-linear", "modules_to_save": ["mergers"]}),
]  # fmt: skip


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("model", [SEVEN, TINY_BASE])
@pytest.mark.parametrize(("key", "good", "count", "bad"), PATTERNS)
def test_a_pattern_that_hits_nothing_is_refused_and_hits_are_counted(model, key, good, count, bad):
    config = changed(SFT, model | {key: good})
    assert not [f for f in lint(config) if "hits nothing" in f.message]
    first = next(names for _, _, names in hits(config))
    assert first and (model is TINY_BASE or len(first) == count)
    assert [f for f in lint(changed(SFT, model | {key: bad})) if f.key.startswith(key) and "hits nothing" in f.message]


def test_patterns_are_printed_with_what_they_hit_and_a_broken_one_is_an_issue(tmp_path, capsys):
    config = changed(SFT, SEVEN | {"policy.freeze_pattern": ["^visual", "("]})
    assert any("is no regular expression" in f.message for f in lint(config))
    (tmp_path / "c.toml").write_text(changed(SFT, SEVEN | {"policy.freeze_pattern": ["^visual"]}).text())
    assert main(["lint", str(tmp_path / "c.toml")]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told.startswith(f"note: {tmp_path}/c.toml:")
    assert told.endswith("policy.freeze_pattern: '^visual' hits 390, the first visual.blocks.0.norm1.weight")
    assert not hits(changed(SFT, {"policy.model_name_or_path": "other/model", "policy.freeze_pattern": ["x"]}))


def test_the_names_of_the_7b_model_are_those_of_its_index(tmp_path):
    names = parameter_names("nvidia/Cosmos-Reason1-7B")
    assert len(names) == len(set(names)) == 729
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight')
    config = changed(SFT, {"policy.model_name_or_path": str(folder), "policy.freeze_pattern": ["x"]})
    assert any("not JSON; was it cut off?" in f.message for f in lint(config))


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("pixels", [{"min_pixels": 784, "max_pixels": 3136}, {"size": {"shortest_edge": 7056}}])
def test_a_checkpoint_with_narrower_vision_limits_is_named_with_what_helps(tmp_path, pixels):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    config = changed(
        SFT, {"policy.model_name_or_path": str(tmp_path), "custom.contract": "configs/prompts/captions.yaml"}
    )
    (found,) = [f for f in lint(config) if f.key == "policy.model_name_or_path"]
    assert "preprocessor_config.json takes" in found.message and "write min_pixels = " in found.message
    assert found.level == "warning"
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12845056}')
    assert not [f for f in lint(config) if f.key == "policy.model_name_or_path"]
