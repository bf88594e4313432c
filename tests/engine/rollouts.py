"""What the tests of the bridge share: the engine's configuration of a small GRPO training, and its rollout backend."""

import socket

import torch

from cookbook.config import Config
from cookbook.runs import ROOT
from data_tools.loading.engine import EngineDataset

BASE = ROOT / "models/tiny-base"


def config(**changes):
    """The engine's configuration of a GRPO training of the tiny base; changes are {"rollout.seed": 1, …}."""
    from cosmos_rl.policy.config import Config as EngineConfig

    tables = {
        "train": {"output_dir": "out", "train_policy": {"type": "grpo", "temperature": 1.0}},
        "rollout": {"backend": "transformers", "n_generation": 3, "max_response_length": 12,
                    "parallelism": {"tp_size": 1}},
        "policy": {"model_name_or_path": str(BASE), "parallelism": {"tp_size": 1}},
    }  # fmt: skip
    for path, value in changes.items():
        *tables_, key = path.split(".")
        table = tables
        for name in tables_:
            table = table.setdefault(name, {})
        table[key] = value
    return EngineConfig.from_dict(tables)


def payloads(prompts):
    from cosmos_rl.dispatcher.data.schema import RLPayload

    return [RLPayload.model_validate_json(RLPayload(prompt=prompt).model_dump_json()) for prompt in prompts]


def backend(**changes):
    """The rollout backend as the engine makes it, on the CPU in float32."""
    from cosmos_rl.rollout.rollout_base import RolloutRegistry

    made = RolloutRegistry.get_rollout_cls("transformers")(config(**changes), None, torch.device("cpu"))
    made.init_engine("none", 0, "auto")
    made.model.float()
    return made


def roll_out(made, packer, prompts, is_validation=False):
    return made.rollout_generation(payloads(prompts), None, packer, None, is_validation, current_weight_version=0)


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def handed_out(questions, contract) -> list:
    """Returns questions as the engine hands them out in GRPO, under this contract."""
    settings = Config.load(ROOT / "configs/tiny_rl.toml").edit({"train.train_policy.mini_batch": 1})
    data = EngineDataset(questions, settings)
    data.contract = contract
    return [data[i] for i in range(len(questions))]
