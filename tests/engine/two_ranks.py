"""Two processes share transformers' Qwen3-VL by FSDP, compiled, one with clips and one with words alone.

Prints, for each process, how far the gradients that they reduced are from the mean of both mini-batches' own; ends in
an error where they wait for each other. Run by `test_stock.py`: python tests/engine/two_ranks.py BASE WORLD FOLDER
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from learning import collate, hand_over, learn
from rollouts import config
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.config import Config
from cookbook.data.contract import Contract
from cookbook.data.samples import Sample, message, text
from cookbook.engine import bridge
from cookbook.engine.bridge.layout import send
from cookbook.engine.bridge.stock import take_laid_out
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

WORDS = [Sample("w", "x", (message("user", text("Is it red?")), message("assistant", text(said))))
         for said in ("It is, so we wait.", "No.")]  # fmt: skip


def main(rank: int, base: str, world: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bridge.install()
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker
    from cosmos_rl.policy.model.hf_models import HFModel
    from cosmos_rl.utils.util import call_setup

    call_setup(packer := HFVLMDataPacker(), config(**{"policy.model_name_or_path": base}))
    model = HFModel.from_pretrained(AutoConfig.from_pretrained(base, trust_remote_code=False), base)
    stock = AutoModelForImageTextToText.from_pretrained(base, trust_remote_code=False, dtype=torch.float32)
    model.model.load_state_dict(stock.state_dict())
    model.model.float().train()
    clips = road_vqa.read(world, "train", Contract.load(ROOT / "configs/prompts/road.yaml"))[:8:5]
    told = Config.load(ROOT / "configs/tiny_sft.toml").edit({"policy.model_name_or_path": base})
    rows = [[packer.sft_process_sample(data[i]) for i in range(2)]
            for data in (EngineDataset(clips, told), EngineDataset(WORDS, told))]  # fmt: skip
    packer.positions = take_laid_out(model, send)
    model.set_gradient_checkpointing_enabled(True)
    alone = [learn(model, packer, collate(packer, part))[1] for part in rows]
    want = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0].keys() & alone[1].keys()}
    hand_over(model, 2, "float32")
    got = learn(model, packer, collate(packer, rows[rank]))[1]
    assert got.keys() == want.keys()
    far = {name: (got[name].full_tensor() - want[name]).norm() / (want[name].norm() + 1e-9) for name in sorted(want)}
    print(f"rank {rank}: {max(far.values()):.1e} of {len(far)} gradients", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.multiprocessing.spawn(main, args=tuple(map(str, map(Path, sys.argv[1:]))), nprocs=2)
