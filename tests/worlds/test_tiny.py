"""The pretraining script sees what the package sees: positions, patches and logits, for either family."""

import importlib
import sys

import pytest
import torch

from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample, message, text, video
from cookbook.model.vision_tower import batch_vision
from cookbook.runs import ROOT
from data_tools.worlds import drawing


@pytest.fixture(scope="module")
def pretrain():
    sys.path.insert(0, str(ROOT / "models"))
    yield importlib.import_module("pretrain")
    sys.path.remove(str(ROOT / "models"))


@pytest.mark.parametrize("family", ["", "3"])
def test_a_row_is_read_as_the_encoder_reads_it(request, family, pretrain, tmp_path):
    stock, encoder, contract = (request.getfixturevalue(name + family) for name in ("stock", "encoder", "contract"))
    made = encoder.family
    clips = torch.randint(0, 255, (2, 8, pretrain.pixels(made), pretrain.pixels(made), 3), dtype=torch.uint8)
    samples = []
    for i, clip in enumerate(clips):
        drawing.write_mp4(path := tmp_path / f"{i}.mp4", clip.numpy(), fps=2)
        clips[i] = encoder.frames(path)[0].permute(0, 2, 3, 1)  # as the codec has left it
        words = text("what is shown?" if i else "what?")
        samples.append(Sample(str(i), str(i), (message("user", video(path), words), message("assistant", text("it")))))
    batch = Encoder(encoder.processor, contract, stock.config).training_batch(samples)
    model = batch_vision(stock)
    model.look = encoder.processor.video_processor
    assert (pretrain.patchify(clips, model.look) - batch["pixel_values_videos"]).abs().max() < 1e-5
    mask, positions = batch["attention_mask"].bool(), pretrain.positions(batch["input_ids"], model)
    assert torch.equal(positions[:, mask], batch["position_ids"][:, mask])
    with torch.no_grad():
        got = pretrain.forward(model, batch["input_ids"], clips)
        del batch["labels"]
        want = model(**batch).logits
    assert torch.allclose(got[mask], want[mask], atol=1e-3)
