"""Winograd's minimal filtering gives what plain convolutions give."""

import pytest
import torch

from quicknat.model import winograd
from quicknat.model.bundle import load_bundle, with_winograd
from quicknat.model.network import DenseBlock


def trained_like(module):
    """Random values in all parameters and statistics, also in those that start as 0 or 1."""
    torch.manual_seed(0)
    for values in (*module.parameters(), *module.buffers()):
        if values.is_floating_point():
            values.data = torch.rand_like(values) / (1 if values.ndim == 1 else values[0].numel())
    return module.eval()


@pytest.mark.parametrize("shape", [(2, 5, 24, 10), (1, 8, 8, 33), (1, 8, 4, 4), (1, 8, 6, 6)])
@pytest.mark.parametrize("pixels", [20, 2048])
def test_winograd_blocks_convolve_like_plain_ones(shape, pixels, monkeypatch):
    monkeypatch.setattr(winograd, "PIXELS", pixels)  # also several groups of rows
    block = trained_like(DenseBlock(shape[1], 8))
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(winograd.FastBlock(block)(x), block(x), atol=1e-5, rtol=1e-5)


def test_bundle_with_winograd_gives_nearly_the_same_probabilities(model):
    plain = load_bundle(model)
    fast = with_winograd(plain)
    assert fast.winograd and not plain.winograd
    x = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        one, other = (b.networks["axial"](x).softmax(dim=1) for b in (plain, fast))
    assert not torch.equal(one, other) and (one - other).abs().mean() < 1e-4
