"""The published hyper-parameters of two recipes stand in live keys, and their contracts hold what is published."""

import pytest

from cookbook.config import Config, plan
from cookbook.config.models import family_of
from cookbook.config.rules import lint
from cookbook.data.contract import Contract
from cookbook.runs import ROOT
from data_tools.loading import contract

OURS = sorted(
    path
    for recipe in ("video_rewards", "intelligent_transportation")
    for path in (ROOT / "configs/recipes").glob(f"{recipe}_*.toml")
)
FULL = sorted(path for path in (ROOT / "configs/recipes").glob("*.toml") if "tiny" not in path.stem)
POLICY, SHARDS = "train.train_policy", "policy.parallelism.dp_shard_size"
PUBLISHED = {
    "video_rewards_sft": {
        "train.epoch": 10, "train.train_batch_per_replica": 32, f"{POLICY}.mini_batch": 4,
        "policy.model_max_length": 4096, SHARDS: 8, "train.optm_lr": 1e-6,
    },
    "video_rewards_rl": {
        "train.epoch": 80, "train.optm_lr": 2e-6, "train.optm_betas": [0.9, 0.95], "train.optm_warmup_steps": 20,
        "train.train_batch_per_replica": 128, "rollout.n_generation": 8, "rollout.batch_size": 4,
        "rollout.max_response_length": 6144, "policy.model_max_length": 10240, f"{POLICY}.temperature": 0.9,
        f"{POLICY}.epsilon_low": 0.2, f"{POLICY}.epsilon_high": 0.2, f"{POLICY}.kl_beta": 0.05,
        f"{POLICY}.mini_batch": 2, "train.ckpt.save_freq": 100, "train.ckpt.max_keep": 20,
        "rollout.parallelism.tp_size": 4, SHARDS: 4, "policy.model_name_or_path": "nvidia/Cosmos-Reason1-7B",
    },
    "intelligent_transportation_sft": {
        "train.epoch": 1, "train.optm_warmup_steps": 0, "train.train_batch_per_replica": 16, f"{POLICY}.mini_batch": 1,
        "policy.model_max_length": 32768, SHARDS: 8, "validation.enable": False, f"{POLICY}.dataset.test_size": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_a_recipes_file_is_clean_and_opens_with_its_command(path):
    config = Config.load(path)
    assert lint(config, gpus=1 if "tiny" in path.stem else 8) == []
    head = path.read_text().split("\n\n")[0]
    assert "Change first:" in head and ("--config configs/recipes/" + path.name in head or "papermill" in head)
    Contract.load(ROOT / config.table("custom")["contract"])


@pytest.mark.parametrize("base", ["nvidia/Cosmos-Reason2-8B", "nvidia/Cosmos-Reason2-2B"])
@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_a_published_base_of_the_other_family_is_taken(path, base):
    config = Config.load(path).edit({"policy.model_name_or_path": base})
    assert lint(config, gpus=8) == []
    assert plan(config, gpus=8, gpu_gib=80, samples=3400, tokens=1500).fits
    assert contract(config) == Contract.load(ROOT / config.table("custom")["contract"]).for_base(family_of(base))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_hyper_parameters(name):
    config = Config.load(f"configs/recipes/{name}.toml")
    assert {key: config[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    vision = Contract.load(ROOT / config.table("custom")["contract"]).vision
    assert (vision.fps, vision.max_pixels) == (1, 81920)


def test_sft_on_bare_scores_asks_for_no_thought_and_rl_does():
    """A target with an empty <think> would teach not to think; the published SFT has the answer's tags alone."""
    forms = {}
    for kind in ("sft", "rl"):
        stated = Config.load(f"configs/recipes/video_rewards_{kind}.toml").table("custom")
        forms[kind] = Contract.load(ROOT / stated["contract"])
    assert forms["sft"].write_answer("", "4") == "<answer>\n4\n</answer>"
    assert "<think>" not in forms["sft"].system and "<think>" in forms["rl"].system
    rubric = [contract.system.split("  Use this")[0].rpartition("Use this")[0] for contract in forms.values()]
    assert rubric[0] == rubric[1] != ""


def test_the_dense_reward_of_the_rl_recipe():
    config = Config.load("configs/recipes/video_rewards_rl.toml")
    assert config.table(f"{POLICY}.reward_function") == {"ordinal": 1.0, "format": 1.0}
    assert config.table("custom")["balance"] is True
