"""Two processes share a small model by FSDP, one with clips and one with words alone, as the engine trains it.

Qwen3-VL is transformers' model, compiled; Qwen2.5-VL is the engine's own. Prints, for each process, how far the
gradients that they reduced are from the mean of both mini-batches' own; ends in an error where they wait for each
other, or take one weight for another. Run by `test_stock.py`:

    python tests/engine/two_ranks.py BASE WORLD FOLDER
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from learning import collate, hand_over, learn
from rollouts import config
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.config import Config
from cookbook.data.architecture import architecture
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


def stock_of(base: str) -> tuple:
    """Returns the engine's packer and wrapper of transformers' model, and what shares it."""
    from cosmos_rl.dispatcher.data.packer import HFVLMDataPacker
    from cosmos_rl.policy.model.hf_models import HFModel

    model = HFModel.from_pretrained(AutoConfig.from_pretrained(base, trust_remote_code=False), base)
    model.model.load_state_dict(weights_of(base))
    model.model.float().train()
    packer = HFVLMDataPacker()
    packer.positions = take_laid_out(model, send)
    model.set_gradient_checkpointing_enabled(True)
    return packer, model, lambda: hand_over(model, 2, "float32")


def native_of(base: str) -> tuple:
    """Returns the same of the engine's own model, which no CPU compiles."""
    from cosmos_rl.dispatcher.data.packer import Qwen2_5_VLM_DataPacker
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VLConditionalModel, parallelize
    from cosmos_rl.utils.parallelism import ParallelDims

    model = Qwen2_5_VLConditionalModel.from_pretrained(
        AutoConfig.from_pretrained(base, trust_remote_code=False), base, 4096
    )
    names = {"model.visual.": "visual.", "model.language_model.": "model.", "lm_head.": "model.lm_head."}
    moved = {
        next((to + name[len(begin) :] for begin, to in names.items() if name.startswith(begin)), name): weight
        for name, weight in weights_of(base).items()
    }
    assert model.load_state_dict(moved, strict=False).missing_keys == []
    dims = ParallelDims(dp_replicate=1, dp_shard=2, cp=1, tp=1, pp=1, world_size=2)
    train = SimpleNamespace(compile=False, param_dtype="float32", fsdp_reduce_dtype="float32", fsdp_offload=False,
                            fsdp_reshard_after_forward="default")  # fmt: skip

    def share() -> None:
        dims.build_mesh("cpu")
        parallelize.parallelize(model, dims, SimpleNamespace(train=train))

    return Qwen2_5_VLM_DataPacker(), model.float().train(), share


def weights_of(base: str) -> dict:
    return AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32, trust_remote_code=False).state_dict()


def main(rank: int, base: str, world: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bridge.install()
    from cosmos_rl.utils.util import call_setup

    native = architecture(Path(base)).native
    packer, model, share = (native_of if native else stock_of)(base)
    call_setup(packer, config(**{"policy.model_name_or_path": base}))
    clips = road_vqa.read(world, "train", Contract.load(ROOT / "configs/prompts/road.yaml"))[:8:5]
    told = Config.load(ROOT / "configs/tiny_sft.toml").edit({"policy.model_name_or_path": base})
    rows = [[packer.sft_process_sample(data[i]) for i in range(2)]
            for data in (EngineDataset(clips, told), EngineDataset(WORDS, told))]  # fmt: skip
    alone = [learn(model, packer, collate(packer, part))[1] for part in rows]
    want = {name: sum(found.get(name, 0) for found in alone) / 2 for name in {*alone[0], *alone[1]}}
    share()
    model.eval()  # as in validation
    assert learn(model, packer, collate(packer, rows[rank]), backward=False)[0] > 0
    model.train()
    for lays_out in (True, False):  # as SFT, as GRPO
        got = learn(model, packer, collate(packer, rows[rank], lays_out), packed=native and not lays_out)[1]
        assert got.keys() == want.keys()
        far = [(got[name].full_tensor() - want[name]).norm() / (want[name].norm() + 1e-9) for name in sorted(want)]
        print(f"rank {rank}: {max(far):.1e} of {len(far)} gradients", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.multiprocessing.spawn(main, args=tuple(map(str, map(Path, sys.argv[1:]))), nprocs=2)
