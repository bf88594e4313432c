"""Mini-batches of transformers' Qwen3-VL, laid out, teach what the engine's own order teaches."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from learning import adapt, collate, hand_over, learn
from PIL import Image
from torch._dynamo.utils import counters

from cookbook.config import Config
from cookbook.data.samples import Sample, message, text
from cookbook.data.samples import video as clip
from cookbook.engine.bridge import attention, stock
from cookbook.engine.bridge.layout import send
from cookbook.engine.bridge.stock import take_laid_out
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


@pytest.fixture
def taken(policy, packer3):
    """The model that the engine trains, in float64, which takes what is laid out; and a packer that lays it out."""
    policy.model.double().train()
    packer3.positions = take_laid_out(policy, send)
    yield policy
    del packer3.positions


@pytest.fixture
def shown(packer3, world, contract, tmp_path):
    """Function: the packer's samples of one kind."""
    clips = [next(iter(s.media()))[1] for s in road_vqa.read(world, "train", contract)[:12:4]]
    pictures = []
    for i, size in enumerate(((64, 48), (120, 40), (70, 90))):
        Image.fromarray(np.random.default_rng(i).integers(255, size=(*size, 3), dtype=np.uint8)).save(
            path := tmp_path / f"{i}.png"
        )
        pictures.append({"type": "image", "image": str(path)})

    def conversation(name: str, *media, words: str = "It is, so we wait.") -> Sample:
        return Sample(name, "x", (message("user", *media, text("Is it red?")), message("assistant", text(words))))

    kinds = {
        "clips": [conversation("a", clip(clips[0])), conversation("b", clip(clips[1]), text("and"), clip(clips[2])),
                  conversation("c", clip(clips[2]), words="No.")],
        "images": [conversation(str(i), picture) for i, picture in enumerate(pictures)],
        "both": [conversation("a", clip(clips[0]), pictures[0]), conversation("b", pictures[1], clip(clips[1]))],
        "words": [conversation("a"), conversation("b", text("Look twice."))],
    }  # fmt: skip

    def make(kind: str) -> list[dict]:
        data = EngineDataset(kinds[kind], Config.load(ROOT / "configs/tiny_sft.toml"))
        return [packer3.sft_process_sample(data[i]) for i in range(len(data))]

    return make


@pytest.mark.parametrize("kind", ["clips", "images", "both", "words"])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_the_engines_rows(taken, packer3, shown, kind, recompute):
    if recompute:
        taken.set_gradient_checkpointing_enabled(True)
    found = shown(kind)
    want, grads = learn(taken, packer3, collate(packer3, found, False))
    laid = collate(packer3, found)
    got, ours = learn(taken, packer3, laid)
    assert laid["input_ids"].shape[0] == len(found), "validation counts the samples by it"
    assert taken(**{k: v for k, v in laid.items() if k != "label_ids"}).logits.shape[0] == len(laid["label_ids"])
    assert got == pytest.approx(want, rel=1e-6)
    assert ours.keys() == grads.keys()
    for name, grad in grads.items():
        assert (ours[name] - grad).norm() <= 1e-5 * grad.norm() + 1e-9, name


@pytest.fixture
def apart(monkeypatch):
    """Attention outside of what is compiled: on a CPU it reads the edges; on CUDA one kernel takes them."""
    for module in (attention, stock):
        monkeypatch.setattr(module, "attend_packed", torch._dynamo.disable(attention.attend_packed))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_with_adapters_learn_under_fsdp(taken, packer3, shown, apart, alone, recompute):
    taken.model.float()
    adapt(taken)
    if recompute:
        taken.set_gradient_checkpointing_enabled(True)
    found = shown("clips")
    want, grads = learn(taken, packer3, collate(packer3, found))
    hand_over(taken, 1, "bfloat16")
    counters.clear()
    got, ours = learn(taken, packer3, collate(packer3, found))
    assert counters["stats"]["unique_graphs"] and all(
        "torch.compiler.disable" in why for why in counters["graph_break"]
    )
    assert got == pytest.approx(want, rel=2e-2)
    assert ours.keys() == grads.keys() == {name for name, p in taken.named_parameters() if p.requires_grad}
    assert any("visual.blocks" in name for name in grads)
    for name, grad in grads.items():
        like = torch.nn.functional.cosine_similarity(ours[name].to_local().flatten(), grad.flatten(), dim=0)
        assert like > 0.9, (name, like)


def test_grpo_is_not_compiled(taken, alone):
    with pytest.raises(AssertionError, match="Compile is not supported"):
        hand_over(taken, 1, "bfloat16", kind="grpo")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["clips", "images", "both"])
def test_nothing_waits_for_the_gpu(taken, packer3, shown, kind):
    """PyTorch raises an error at whatever waits for the GPU, from the packer to the end of the way back."""
    from cosmos_rl.policy.kernel.loss import CrossEntropyLoss
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer

    taken.cuda().bfloat16()
    taken.model.model.visual.pos_embed.weight.requires_grad = False  # a table that learns is read anew, and waited for
    found, learned = shown(kind), []
    try:
        for strict in (False, True, True):  # what is remembered of a frame is asked for once
            taken.zero_grad(set_to_none=False)
            torch.cuda.set_sync_debug_mode("error" if strict else "default")
            laid = collate(packer3, found)
            labels = laid.pop("label_ids")
            loss = sft_trainer.async_safe_ce(taken(**laid).logits, labels, ce_impl=CrossEntropyLoss())
            loss.backward()
            learned.append(loss.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learned[0].item() == learned[1].item() == learned[2].item() > 0


@pytest.mark.parametrize("base", ["models/tiny-base", "models/tiny-qwen3"])
def test_two_ranks_reduce_the_gradients_of_both(engine, world, tmp_path, base):
    """One shows clips and one words alone; the heads of both are tied."""
    command = [sys.executable, ROOT / "tests/engine/two_ranks.py", ROOT / base, world, tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": ROOT})
    found = [float(number) for number in re.findall(r"rank \d: (\S+) of \d\d+ gradients", ran.stdout)]
    assert len(found) == 4 and max(found) < 1e-5, ran.stderr[-2000:]
