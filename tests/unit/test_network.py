"""The network is the published one, and its faster form on CPUs gives what it gives."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import ROOT
from quicknat.errors import InputError
from quicknat.model import winograd
from quicknat.model.bundle import load_bundle, with_winograd
from quicknat.model.network import DenseBlock, NetworkSettings, QuickNAT
from quicknat.model.weights import from_authors

KINDS = {"NONE": "none", "CSSE": "scse"}  # as the golden files are named; ours
LOGITS_KEPT = 4  # the copies in tests/golden hold every fourth pixel of the logits


def reference(folder, name):
    values = np.load(folder / f"quicknat_f8_c5_{name}.npz")
    state = {key: torch.tensor(values[key]) for key in values if not key.startswith("__")}
    return state, torch.tensor(values["__input__"]), torch.tensor(values["__logits__"])


@pytest.mark.parametrize("name", ["NONE", "CSSE"])
def test_reference_weights_give_the_reference_logits(golden, name):
    state, image, logits = reference(golden, name)
    network = from_authors(state).eval()
    assert network.settings.squeeze_excitation == KINDS[name]
    assert (network.settings.filters, network.n_classes) == (8, 5)
    with torch.no_grad():
        ours = network(image)[..., ::LOGITS_KEPT, ::LOGITS_KEPT]
    assert (ours - logits).abs().max() <= 1e-5


@pytest.mark.parametrize(("kept", "dropped", "kind"), [("c", "s", "cse"), ("s", "c", "sse")])
def test_single_gates_of_the_reference_are_recognised(golden, kept, dropped, kind):
    state, image, _ = reference(golden, "CSSE")
    state = {
        key.replace(f".{kept}SE.", "."): value
        for key, value in state.items()
        if f".{dropped}SE." not in key
    }
    network = from_authors(state).eval()
    assert network.settings.squeeze_excitation == kind
    assert network(image).isfinite().all()


UNFIT = [  # a parameter, its values (None: removed), and the message
    ("encode9.conv1.weight", torch.zeros(3), "is not a parameter"),
    ("encode1.batchnorm2.extra", torch.zeros(3), "is not a parameter"),
    ("decode2.conv2.bias", None, "is missing"),
    ("decode4.SELayer.cSE.fc1.bias", None, "is missing"),
    ("encode1.conv1.weight", None, "is missing"),
    ("decode2.conv2.bias", torch.zeros(3), "has shape"),
    ("classifier.conv.weight", torch.zeros(3), "is .* not a convolution"),
]


@pytest.mark.parametrize(("key", "values", "message"), UNFIT)
def test_reference_weights_that_do_not_fit_are_refused_by_key(golden, key, values, message):
    state = {**reference(golden, "CSSE")[0], key: values}
    with pytest.raises(InputError, match=f"'{key}' {message}"):
        from_authors({key: value for key, value in state.items() if value is not None})


@pytest.mark.parametrize("kind", ["none", "cse", "sse", "scse"])
def test_logits_have_the_shape_of_the_slice_and_every_parameter_a_gradient(kind):
    network = QuickNAT(7, NetworkSettings(4, kind))
    logits = network(torch.rand(2, 1, 48, 80))
    assert logits.shape == (2, 7, 48, 80)
    logits.square().mean().backward()
    assert [name for name, part in network.named_parameters() if part.grad is None] == []


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


@pytest.mark.slow
def test_package_imports_no_torch_for_jobs_that_need_none():
    code = (
        "import sys, quicknat.cli;"
        " from quicknat.images import labels, slices, volumes;"
        " from quicknat.cohort import layouts, sheet, survey;"
        " from quicknat.download import fetch, unpacking;"
        " from quicknat.autolabel import atlas, external;"
        " from quicknat.report import figures, pages;"
        " from quicknat.synthesis import tissues;"
        " print([m for m in ('torch', 'torchio', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["NONE", "CSSE"])
def test_golden_copies_are_those_of_the_shared_tensors(golden, shared, name):
    state, image, logits = reference(golden, name)
    shared_state, shared_image, shared_logits = reference(shared / "golden", name)
    assert state.keys() == shared_state.keys() and torch.equal(image, shared_image)
    assert all(torch.equal(state[key], shared_state[key]) for key in state)
    with torch.no_grad():  # and here every pixel
        assert (from_authors(state).eval()(image) - shared_logits).abs().max() <= 1e-5
    assert torch.equal(logits, shared_logits[..., ::LOGITS_KEPT, ::LOGITS_KEPT])


@pytest.mark.parametrize(("kind", "count"), [("none", 3_516_971), ("scse", 3_551_027)])
def test_full_size_network_has_the_parameters_of_the_reference(kind, count):
    """The paper says 3.5 million."""
    network = QuickNAT(28, NetworkSettings(64, kind))
    assert sum(part.numel() for part in network.parameters()) == count
