"""The batched vision tower equals the stock one, forward and backward, for equal and for mixed clip sizes."""

import copy

import pytest
import torch

from cookbook.model.vision_tower import batch_vision


@pytest.mark.parametrize(
    "grids",
    [
        [(4, 4, 4)] * 3,  # the toy road world
        [(1, 2, 2)],  # an image of one merged patch
        [(2, 16, 16)] * 2,  # several windows a frame, all full
        [(3, 12, 20)] * 2,  # windows cut at the border, of several lengths
        [(4, 4, 4), (2, 12, 20), (4, 4, 4), (1, 6, 10)],  # mixed sizes keep their order
    ],
)
@pytest.mark.parametrize("which", ["stock", "stock3"])
def test_equals_the_stock_tower(request, which, grids):
    stock = request.getfixturevalue(which)
    torch.manual_seed(0)
    grid = torch.tensor(grids)
    patches = torch.randn(int(grid.prod(1).sum()), 6 * stock.config.vision_config.patch_size**2)
    batched = batch_vision(copy.deepcopy(stock)).model.visual
    want, got = stock.model.visual(patches, grid), batched(patches, grid)
    if which == "stock3":  # with it come the layers that go to the language model's first ones
        assert [len(inner) for _, inner in (want, got)] == [2, 2]
        want, got = (torch.stack([out, *inner]) for out, inner in (want, got))
    assert got.shape == want.shape
    assert torch.allclose(got, want, atol=2e-5), (got - want).abs().max()

    weights = torch.randn_like(want)
    (want * weights).sum().backward()
    (got * weights).sum().backward()
    for (name, a), b in zip(stock.model.visual.named_parameters(), batched.parameters()):
        assert a.grad.abs().sum() > 0 or "qkv.bias" in name, name
        assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-6, name


@pytest.mark.parametrize("family", ["", "3"])
def test_whole_model_gives_the_same_logits(request, family, samples):
    stock, encoder = (request.getfixturevalue(name + family) for name in ("stock", "encoder"))
    batch = encoder.training_batch(samples[:5])
    batch.pop("labels")
    want = stock(**batch).logits
    got = batch_vision(stock)(**batch).logits
    assert torch.allclose(got, want, atol=1e-4)
