"""Weights load without running code, into the network that they belong to, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from in_process import quicknat
from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.model.weights import load_weights, read_authors_weights, save_weights

SMALL = NetworkSettings(filters=4, squeeze_excitation="scse", dropout=0.0)
CLASSES = ["Background", "Grey", "White"]


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "a.safetensors", QuickNAT(3, SMALL).state_dict(), "axial", CLASSES)
    return tmp_path / "a.safetensors"


def test_weights_load_as_they_were_saved_and_are_the_same_bytes_each_time(saved, tmp_path):
    network = QuickNAT(3, SMALL)
    load_weights(network, saved, "axial", CLASSES)
    torch.manual_seed(0)
    torch.testing.assert_close(network.state_dict(), QuickNAT(3, SMALL).state_dict())
    for number in range(8):
        save_weights(path := tmp_path / f"{number}", network.state_dict(), "axial", CLASSES)
        assert path.read_bytes() == saved.read_bytes()


def test_weights_of_a_network_that_saw_fewer_slices_begin_with_what_it_found(saved, tmp_path):
    one, three, five = (QuickNAT(3, replace(SMALL, slices=count)).eval() for count in (1, 3, 5))
    load_weights(one, saved, "axial", CLASSES)
    load_weights(three, saved, "axial", CLASSES, to_train=True)
    save_weights(between := tmp_path / "three", three.state_dict(), "axial", CLASSES)
    slices = torch.rand(2, 5, 32, 32)
    for path in (saved, between):
        with pytest.raises(InputError, match="is for another network"):
            load_weights(five, path, "axial", CLASSES)
        load_weights(five, path, "axial", CLASSES, to_train=True)
        with torch.no_grad():
            torch.testing.assert_close(five(slices), one(slices[:, 2:3]))


@pytest.mark.case(55, 56)
@pytest.mark.parametrize(
    ("network", "view", "classes", "reason"),
    [
        (QuickNAT(3, SMALL), "coronal", CLASSES, "is for the axial view, not the coronal one"),
        (QuickNAT(4, SMALL), "axial", [*CLASSES, "Other"], "has 3 classes, not 4"),
        (QuickNAT(3, SMALL), "axial", ["Background", "White", "Grey"], "class 1 is 'Grey', not"),
        (QuickNAT(3, NetworkSettings(8, "scse")), "axial", CLASSES, "is for another network"),
        (QuickNAT(3, NetworkSettings(4, "none")), "axial", CLASSES, "is for another network"),
    ],
)
def test_weights_of_another_view_or_label_table_or_network_are_refused(
    saved, network, view, classes, reason
):
    with pytest.raises(InputError, match=reason):
        load_weights(network, saved, view, classes)
    saved.write_bytes(b"\x80\x04cos\nsystem\n.")  # a pickle
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(network, saved, view, classes)


def test_network_to_train_takes_what_classes_of_another_label_table_have_by_name(saved, caplog):
    caplog.set_level("INFO")
    known, network = QuickNAT(3, SMALL).eval(), QuickNAT(5, SMALL).eval()
    load_weights(known, saved, "axial", CLASSES)
    classes = ["Background", "Fluid", "White", "Lesion", "Grey"]
    load_weights(network, saved, "axial", classes, to_train=True)
    slices = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        theirs, ours = (net(slices).softmax(dim=1) for net in (known, network))
    torch.testing.assert_close(ours[:, [4, 2]], theirs[:, [1, 2]])
    for part in (0, 1, 3):
        torch.testing.assert_close(ours[:, part], theirs[:, 0] / 3)
    assert "new classes, so far background: Fluid, Lesion" in caplog.text
    with pytest.raises(InputError, match="is for another network"):
        load_weights(QuickNAT(2, NetworkSettings(8, "scse")), saved, "axial", ["A", "B"], True)


def reference_state(golden):
    values = np.load(golden / "quicknat_f8_c5_CSSE.npz")
    return {key: torch.tensor(values[key]) for key in values if not key.startswith("__")}


@pytest.mark.parametrize("form", ["state dict", "checkpoint", "data parallel"])
def test_published_weights_start_a_training_in_all_forms_that_they_come_in(
    golden, tmp_path, protocol, form
):
    state = reference_state(golden)
    if form == "data parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    content = {"epoch": 3, "state_dict": state} if form == "checkpoint" else state
    torch.save(content, tmp_path / "a.pth.tar")
    table = Protocol("five", protocol.table[:5].assign(sagittal=range(5), partner=-1))
    table.write(tmp_path / "five.tsv")
    output = tmp_path / "a.safetensors"
    options = ["--protocol", tmp_path / "five.tsv", "--view", "axial", "--output", output]
    done = quicknat("import-weights", tmp_path / "a.pth.tar", *options)
    assert done.status == 0, str(done)
    network = QuickNAT(5, NetworkSettings(8, "scse"))
    load_weights(network, output, "axial", table.class_names("axial"))


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


@pytest.mark.case(55)
def test_published_file_that_would_run_code_is_refused_unrun(golden, tmp_path, capsys):
    torch.save({"state_dict": reference_state(golden), "epoch": Evil()}, tmp_path / "evil.pth")
    torch.save(QuickNAT(3, SMALL), tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name, reason in {
        "evil": "holds more than tensors.*state_dict",
        "whole": "holds more than tensors.*state_dict",
        "text": "is not a torch file|holds more than tensors",
        "list": "no state dict",
        "other": "'conv.weight' is not a parameter",
        "absent": "no such file",
    }.items():
        with pytest.raises(InputError, match=f"{name}.pth: .*{reason}"):
            read_authors_weights(tmp_path / f"{name}.pth")
    assert "ran" not in capsys.readouterr().out
