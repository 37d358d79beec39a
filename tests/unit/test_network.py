"""The network is the published one."""

import numpy as np
import pytest
import torch

from helpers import ROOT
from quicknat.errors import InputError
from quicknat.model.authors_weights import from_authors
from quicknat.model.network import Excitation, NetworkSettings, QuickNAT

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


@pytest.mark.parametrize("name", ["NONE", "CSSE"])
def test_golden_copies_are_those_of_the_shared_tensors(golden, shared, name):
    state, image, logits = reference(golden, name)
    shared_state, shared_image, shared_logits = reference(shared / "golden", name)
    assert state.keys() == shared_state.keys() and torch.equal(image, shared_image)
    assert all(torch.equal(state[key], shared_state[key]) for key in state)
    with torch.no_grad():  # and here every pixel
        assert (from_authors(state).eval()(image) - shared_logits).abs().max() <= 1e-5
    assert torch.equal(logits, shared_logits[..., ::LOGITS_KEPT, ::LOGITS_KEPT])


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


def test_reference_weights_that_do_not_fit_are_refused_by_key(golden):
    state, _, _ = reference(golden, "CSSE")

    def refused(match, **changes):
        changed = {**state, **{key.replace("_", "."): value for key, value in changes.items()}}
        with pytest.raises(InputError, match=match):
            from_authors({key: value for key, value in changed.items() if value is not None})

    refused("'encode9.conv1.weight' is not a parameter", encode9_conv1_weight=torch.zeros(3))
    refused("'decode2.conv2.bias' is missing", decode2_conv2_bias=None)
    refused("'decode4.SELayer.cSE.fc1.bias' is missing", decode4_SELayer_cSE_fc1_bias=None)
    refused("'decode2.conv2.bias' has shape", decode2_conv2_bias=torch.zeros(3))
    refused(
        "'encode1.batchnorm2.extra' is not a parameter", encode1_batchnorm2_extra=torch.zeros(3)
    )
    refused("'encode1.conv1.weight' is missing", encode1_conv1_weight=None)
    refused("'classifier.conv.weight' is .* no convolution", classifier_conv_weight=torch.zeros(3))


def reference_parameter_count(filters, n_classes, gates):
    """Parameters of the authors' network, layer by layer (figure 2; their unused ones left out)."""

    def convolution(inputs, outputs, side):
        return inputs * outputs * side**2 + outputs

    def block(inputs):
        widths = [inputs, inputs + filters, inputs + 2 * filters]
        norms = sum(2 * width for width in widths)
        convolutions = sum(
            convolution(width, filters, side) for width, side in zip(widths, (5, 5, 1), strict=True)
        )
        return norms + convolutions + 1  # one PReLU

    half = filters // 2
    channel = filters * half + half + half * filters + filters
    gate = (channel + convolution(filters, 1, 1)) * gates
    encoders = block(1) + 3 * block(filters) + 4 * gate
    decoders = 4 * block(2 * filters) + 4 * gate
    return encoders + block(filters) + decoders + convolution(filters, n_classes, 1)


@pytest.mark.parametrize(("kind", "count"), [("NONE", 3_516_971), ("CSSE", 3_551_027)])
def test_full_size_network_has_the_parameters_of_the_reference(golden, kind, count):
    """The paper says 3.5 million."""
    settings = NetworkSettings(64, KINDS[kind])
    assert sum(p.numel() for p in QuickNAT(28, settings).parameters()) == count
    assert reference_parameter_count(64, 28, kind == "CSSE") == count
    # the same arithmetic gives what the authors' own state dict holds, at its size
    state, _, _ = reference(golden, kind)
    learnt = [
        value.numel()
        for key, value in state.items()
        if not any(part in key for part in ("running_", "num_batches", "bottleneck.SELayer"))
    ]
    assert sum(learnt) == reference_parameter_count(8, 5, kind == "CSSE")


@pytest.mark.parametrize("kind", ["none", "cse", "sse", "scse"])
@pytest.mark.parametrize("shape", [(16, 16), (48, 80)])
def test_logits_have_the_shape_of_the_slice(kind, shape):
    network = QuickNAT(7, NetworkSettings(4, kind))
    assert network(torch.rand(2, 1, *shape)).shape == (2, 7, *shape)


def test_scse_is_the_larger_of_channel_and_spatial_gating():
    gate = Excitation(6, "scse")
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(gate(x), torch.maximum(gate.channel(x), gate.spatial(x)))


def test_dropout_acts_in_training_only():
    network = QuickNAT(3, NetworkSettings(4, "none", dropout=0.5))
    x = torch.rand(4, 1, 32, 32)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_every_parameter_receives_a_gradient():
    network = QuickNAT(3, NetworkSettings(4, "scse"))
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.slow
def test_package_imports_no_torch_for_jobs_that_need_none():
    import subprocess
    import sys

    code = (
        "import sys, quicknat.cli;"
        " from quicknat.images import labels, slices, volumes;"
        " from quicknat.cohort import layouts, sheet, survey;"
        " from quicknat.download import fetch, unpacking;"
        " from quicknat.autolabel import atlas, external;"
        " from quicknat.report import figures, pages;"
        " print([m for m in ('torch', 'torchio', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
