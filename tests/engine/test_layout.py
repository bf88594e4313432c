"""A mini-batch laid out on the CPU teaches what the engine's own order teaches, and the GPU is asked for nothing."""

import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learning import collate, learn
from PIL import Image

from cookbook.config import Config
from cookbook.data.samples import Sample, message, text
from cookbook.data.samples import video as clip
from cookbook.engine.bridge.layout import _decided
from cookbook.runs import ROOT
from data_tools import road_vqa
from data_tools.loading.engine import EngineDataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


def conversation(name: str, *shown) -> Sample:
    turns = message("user", *shown, text("Is the light red?")), message("assistant", text("It is, so we wait."))
    return Sample(name, "x", turns)


@pytest.fixture
def shown(packer, world, contract, tmp_path):
    """Function: the packer's samples of one kind; a mini-batch shows clips, or images, or neither."""
    clips = [next(iter(s.media()))[1] for s in road_vqa.read(world, "train", contract)[:12:4]]
    pictures = []
    for i, size in enumerate(((64, 48), (120, 40), (33, 90))):
        Image.fromarray(np.random.default_rng(i).integers(255, size=(*size, 3), dtype=np.uint8)).save(
            path := tmp_path / f"{i}.png"
        )
        pictures.append(path)
    kinds = {
        "clips": [conversation("a", clip(clips[0])), conversation("b", clip(clips[1]), text("and"), clip(clips[2]))],
        "images": [conversation(str(path), {"type": "image", "image": str(path)}) for path in pictures],
        "both": [conversation("a", {"type": "image", "image": str(pictures[0])}, clip(clips[0])),
                 conversation("b", clip(clips[1]), {"type": "image", "image": str(pictures[1])})],
        "words": [conversation("a"), conversation("b", text("Look twice."))],
    }  # fmt: skip

    def make(kind: str) -> list[dict]:
        data = EngineDataset(kinds[kind], Config.load(ROOT / "configs/tiny_sft.toml"))
        return [packer.sft_process_sample(data[i]) for i in range(len(data))]

    return make


@pytest.fixture
def theirs(native, packer, monkeypatch):
    """Function: (loss, gradients by name) of the packer's samples in the engine's own order, by its own `forward`."""

    def learned(*args) -> tuple[float, dict[str, torch.Tensor]]:
        with monkeypatch.context() as patch:
            patch.setattr(type(native), "forward", inspect.unwrap(type(native).forward))
            return learn(native, packer, collate(packer, args[0], False, *args[1:]), packed=True)

    return learned


@pytest.mark.parametrize("kind", ["clips", "images", "both", "words"])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_the_engines_packing(native, packer, shown, theirs, kind, recompute):
    native.set_gradient_checkpointing_enabled(recompute)
    found = shown(kind)
    want, grads = theirs(found)
    laid = collate(packer, found)
    got, ours = learn(native, packer, laid)
    assert laid["input_ids"].shape[0] == len(found), "validation counts the samples by it"
    given = {key: value for key, value in laid.items() if key != "label_ids"}
    logits = native(**given | {"position_ids": native.get_position_ids(**laid)[0]}).logits
    assert len(logits) == len(laid["label_ids"]) < laid["input_ids"].numel() / 2
    assert got == pytest.approx(want, rel=1e-6)
    assert any(name.startswith("visual.") for name in ours)
    if kind == "words":  # the tower is shown an empty frame, which teaches nothing
        grads |= {name: torch.zeros_like(grad) for name, grad in ours.items() if name.startswith("visual.")}
    for learned in (ours, learn(native, packer, collate(packer, found, False), packed=True)[1]):  # and rows, as GRPO's
        assert learned.keys() == grads.keys()
        for name, grad in grads.items():
            assert (learned[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-9, name


@pytest.mark.parametrize(("kind", "calls"), [("clips", 1), ("both", 2), ("words", 0)])
def test_the_tower_is_called_once_whatever_is_shown(native, packer, shown, theirs, kind, calls):
    """Or GPUs that share it would wait for each other; the engine calls it for clips, and for images."""
    found, called = shown(kind), []
    native.visual.register_forward_hook(lambda *_: called.append(kind))
    theirs(found)
    assert len(called) == calls
    for lays_out in (True, False):
        called.clear()
        learn(native, packer, collate(packer, found, lays_out), packed=not lays_out)
        assert len(called) == 1


def test_a_sample_that_is_cut_learns_what_is_left(native, packer, shown, theirs):
    found = shown("words")
    longest = packer.sft_compute_max_len(found) - 3
    want, _ = theirs(found, longest)
    got, _ = learn(native, packer, collate(packer, found, True, longest))
    assert got == pytest.approx(want, rel=1e-6)


def test_samples_without_a_label_have_no_loss(native, packer, shown):
    found = [row | {"label_ids": [-100] * len(row["label_ids"])} for row in shown("words")]
    assert learn(native, packer, collate(packer, found))[0] == 0


@pytest.mark.parametrize(
    ("multiple", "pipelined", "ours", "lays_out"),
    [(1, False, True, True), (2, False, True, False), (1, True, True, False), (1, False, False, False)],
)
def test_only_what_is_on_one_rank_as_a_whole_comes_laid_out(multiple, pipelined, ours, lays_out):
    class Native:
        pass

    def init(trainer, config, parallel_dims):
        trainer.parallel_dims, trainer.seq_len_multiple = parallel_dims, multiple

    trainer = SimpleNamespace(data_packer=SimpleNamespace(), val_data_packer=SimpleNamespace(),
                              model=(Native if ours else SimpleNamespace)())  # fmt: skip
    _decided(init, Native)(trainer, None, parallel_dims=SimpleNamespace(pp_enabled=pipelined))
    assert trainer.data_packer.lays_out == trainer.val_data_packer.lays_out == lays_out
    assert hasattr(trainer.model, "check_sequence_packing_compatible") == lays_out


def test_the_engine_still_asks_the_gpu(engine):
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower
    from cosmos_rl.policy.trainer.llm_trainer.sft_trainer import SFTTrainer

    assert ".item()" in inspect.getsource(Tower.forward.bare)
    source = inspect.getsource(inspect.unwrap(SFTTrainer.step_training))
    assert "v.to(self.device)" in source and "non_blocking" not in source and "interested_tokens" not in source


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["clips", "images", "words"])
def test_nothing_waits_for_the_gpu(native, packer, shown, kind):
    """PyTorch raises an error at whatever waits for the GPU, from the packer to the end of the way back."""
    from cosmos_rl.policy.kernel.loss import CrossEntropyLoss
    from cosmos_rl.policy.trainer.llm_trainer import sft_trainer

    for weight in native.cuda().parameters():
        weight.data = weight.data.bfloat16()
    found, learned = shown(kind), []
    try:
        for strict in (False, True, True):  # what is remembered of a frame is asked for once
            native.zero_grad(set_to_none=False)
            torch.cuda.set_sync_debug_mode("error" if strict else "default")
            laid = collate(packer, found)
            labels = laid.pop("label_ids")
            laid = {k: v.bfloat16() if k.startswith("pixel") and "places" not in k else v for k, v in laid.items()}
            laid["position_ids"] = native.get_position_ids(**laid)[0]
            loss = sft_trainer.async_safe_ce(native(**laid).logits, labels, ce_impl=CrossEntropyLoss())
            loss.backward()
            learned.append(loss.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learned[0].item() == learned[1].item() == learned[2].item() > 0
