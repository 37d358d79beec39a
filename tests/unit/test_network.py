"""The network is the published one."""

import numpy as np
import pytest
import torch

from helpers import ROOT
from quicknat.errors import InputError
from quicknat.network import Excitation, NetworkSettings, QuickNAT, from_reference


def reference(shared, name):
    golden = np.load(shared / "golden" / f"quicknat_f8_c5_{name}.npz")
    state = {key: torch.tensor(golden[key]) for key in golden if not key.startswith("__")}
    return state, torch.tensor(golden["__input__"]), torch.tensor(golden["__logits__"])


@pytest.mark.parametrize("name", ["NONE", "CSSE"])
def test_reference_weights_give_the_reference_logits(shared, name):
    state, image, logits = reference(shared, name)
    network = from_reference(state).eval()
    assert network.settings.squeeze_excitation == name
    with torch.no_grad():
        assert (network(image) - logits).abs().max() <= 1e-5


@pytest.mark.parametrize(("kept", "dropped", "kind"), [("c", "s", "CSE"), ("s", "c", "SSE")])
def test_single_gates_of_the_reference_are_recognised(shared, kept, dropped, kind):
    state, image, _ = reference(shared, "CSSE")
    state = {
        key.replace(f".{kept}SE.", "."): value
        for key, value in state.items()
        if f".{dropped}SE." not in key
    }
    network = from_reference(state).eval()
    assert network.settings.squeeze_excitation == kind
    assert network(image).isfinite().all()


def test_reference_weights_that_do_not_fit_are_refused_by_key(shared):
    state, _, _ = reference(shared, "NONE")
    with pytest.raises(InputError, match="'encode9.conv1.weight' is not"):
        from_reference({**state, "encode9.conv1.weight": state["encode1.conv1.weight"]})
    with pytest.raises(InputError, match="missing"):
        from_reference({k: v for k, v in state.items() if k != "decode2.conv2.bias"})
    with pytest.raises(InputError, match="has shape"):
        from_reference({**state, "decode2.conv2.bias": torch.zeros(3)})


def test_full_size_network_has_the_published_number_of_parameters():
    published = 3.5e6  # paper, section 2.1
    count = sum(p.numel() for p in QuickNAT(28, NetworkSettings(64, "NONE")).parameters())
    assert count == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("kind", ["NONE", "CSE", "SSE", "CSSE"])
@pytest.mark.parametrize("shape", [(16, 16), (48, 80)])
def test_logits_have_the_shape_of_the_slice(kind, shape):
    network = QuickNAT(7, NetworkSettings(4, kind))
    assert network(torch.rand(2, 1, *shape)).shape == (2, 7, *shape)


def test_csse_is_the_larger_of_channel_and_spatial_gating():
    gate = Excitation(6, "CSSE")
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(gate(x), torch.maximum(gate.channel(x), gate.spatial(x)))


def test_dropout_acts_in_training_only():
    network = QuickNAT(3, NetworkSettings(4, "NONE", dropout=0.5))
    x = torch.rand(4, 1, 32, 32)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_every_parameter_receives_a_gradient():
    network = QuickNAT(3, NetworkSettings(4, "CSSE"))
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_package_imports_no_torch_for_jobs_that_need_none():
    import subprocess
    import sys

    code = (
        "import sys, quicknat.cli, quicknat.cohort, quicknat.volumes, quicknat.labels,"
        " quicknat.slices, quicknat.sources, quicknat.autolabel, quicknat.figures, quicknat.report;"
        " print([m for m in ('torch', 'torchio', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
