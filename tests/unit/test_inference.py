"""From probabilities back to the native grid, and what is written there."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from quicknat.bundle import Bundle, load_bundle, write_bundle
from quicknat.conform import conform, resample
from quicknat.errors import InputError
from quicknat.inference import aggregate, normalised_entropy, segment_file, to_native
from quicknat.network import NetworkSettings, QuickNAT
from quicknat.optimizers import TrainingSettings
from quicknat.slices import VIEWS
from quicknat.training import train_view
from quicknat.volumes import Grid


def one_hot(labels, classes=61):
    return F.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).movedim(-1, 0).float()


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR", "ILP"])
def test_labels_return_to_the_native_grid_whatever_its_orientation(head, demo_dseg, codes):
    _, grid, _ = conform(head, 2.0, 128)
    probabilities = one_hot(resample(demo_dseg, grid, order=0))
    native = nib.Nifti1Image(demo_dseg.data, demo_dseg.affine)
    target = nib.orientations.axcodes2ornt(codes)
    ornt = nib.orientations.ornt_transform(nib.io_orientation(native.affine), target)
    native = native.as_reoriented(ornt)
    labels = to_native(probabilities, grid.affine, Grid(native.shape, native.affine))
    truth = np.asarray(native.dataobj)
    assert labels.shape == truth.shape
    # the grids are half a voxel apart, so boundaries differ, but nothing may be shifted
    assert (labels == truth)[truth > 0].mean() > 0.75
    centres = [np.argwhere(part == 17).mean(axis=0) for part in (labels, truth)]
    np.testing.assert_allclose(*centres, atol=0.6)


def test_oblique_native_grid_gets_labels_in_the_right_place(head, demo_dseg):
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    _, grid, _ = conform(head, 2.0, 128)
    probabilities = one_hot(resample(demo_dseg, grid, order=0))
    native = Grid(demo_dseg.shape, turn @ demo_dseg.affine)
    labels = to_native(probabilities, grid.affine, native)
    truth = resample(demo_dseg, native, order=0)
    both = (labels > 0) & (truth > 0)
    assert 2 * both.sum() / ((labels > 0).sum() + (truth > 0).sum()) > 0.93


def test_empty_prediction_gives_an_empty_map():
    native = Grid((5, 6, 7), np.eye(4))
    probabilities = one_hot(np.zeros((8, 8, 8), int), 3)
    assert not to_native(probabilities, np.eye(4), native).any()


def test_entropy_is_zero_when_sure_and_one_when_even():
    sure = one_hot(np.zeros((2, 2, 2), int), 4)
    assert normalised_entropy(sure).max() < 1e-6
    even = torch.full((4, 2, 2, 2), 0.25)
    torch.testing.assert_close(normalised_entropy(even), torch.ones(2, 2, 2))


class Certain(torch.nn.Module):
    """Stand-in for a network: says class k for every pixel."""

    def __init__(self, n_classes, k):
        super().__init__()
        self.n_classes, self.k = n_classes, k
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        logits = torch.full((len(x), self.n_classes, *x.shape[2:]), -30.0)
        logits[:, self.k] = 30
        return logits


def test_views_are_weighted_and_sagittal_classes_count_for_both_sides(protocol):
    left = protocol.names.index("Left putamen")
    right = protocol.names.index("Right putamen")
    networks = {
        "coronal": Certain(28, left),
        "axial": Certain(28, 3),
        "sagittal": Certain(16, int(protocol.sagittal[left])),
    }
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    bundle = Bundle(networks, weights, protocol, 2.0, 32, 32, "x")
    image = np.full((32, 32, 32), 200, np.uint8)
    total = aggregate(bundle, image)
    assert total.shape == (28, 32, 32, 32)
    found = {index: total[index, 5, 6, 7].item() for index in (left, right, 3, 0)}
    assert found == pytest.approx({left: 0.6, right: 0.2, 3: 0.4, 0: 0.0}, abs=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory, request):
    """A model folder from three very brief real trainings."""
    from helpers import LABELS
    from quicknat.labels import Protocol

    protocol = Protocol.read(LABELS / "quicknat28.tsv")
    folder = tmp_path_factory.mktemp("model")
    settings = TrainingSettings(
        epochs=1,
        learning_rate=1e-3,
        augment=False,
        compile=False,
        network=NetworkSettings(4, "CSSE", 0.0),
    )
    random = np.random.default_rng(0)
    for view in VIEWS:
        stack = random.integers(0, 255, (8, 2, 48, 48)).astype(np.uint8)
        stack[:, 1] = random.integers(0, protocol.n_classes(view), (8, 48, 48))
        np.save(folder / f"{view}.npy", stack)
        train_view(view, protocol, [folder / f"{view}.npy"], [], settings, folder / "views" / view)
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    write_bundle(
        {view: folder / "views" / view for view in VIEWS},
        protocol, weights, 4.0, 64, 48, folder / "model",
    )  # fmt: skip
    return folder / "model"


def test_model_folder_is_enough_to_segment_on_the_native_grid(model, head, head_file, tmp_path):
    segment_file(load_bundle(model), head_file, tmp_path / "out", "sub-1", False, "")
    anat = tmp_path / "out/sub-1/anat"
    dseg = nib.load(anat / "sub-1_desc-quicknat_dseg.nii.gz")
    assert dseg.shape == head.shape and dseg.get_data_dtype() == np.uint8
    np.testing.assert_allclose(dseg.affine, head.affine, atol=1e-4)
    table = pd.read_csv(anat / "sub-1_desc-quicknat_dseg.tsv", sep="\t")
    assert list(table.columns) == ["index", "name", "abbreviation", "color", "freesurfer_id"]
    volumes = pd.read_csv(anat / "sub-1_desc-quicknat_volumes.tsv", sep="\t")
    data = np.asarray(dseg.dataobj)
    assert volumes["voxels"].tolist() == [int((data == i).sum()) for i in range(1, 28)]
    assert volumes["volume_mm3"].sum() == pytest.approx((data > 0).sum() * 8, rel=1e-3)
    qc = json.loads((anat / "sub-1_desc-quicknat_qc.json").read_text())
    assert all(set(flag) == {"flag", "reason"} for flag in qc["flags"])


def test_networks_load_as_they_were_saved(model):
    bundle = load_bundle(model)
    assert set(bundle.networks) == set(VIEWS)
    assert isinstance(bundle.networks["axial"], QuickNAT) and not bundle.networks["axial"].training


@pytest.mark.parametrize("name", ["coronal.safetensors", "labels.tsv"])
def test_model_with_a_changed_byte_is_refused(model, tmp_path, name):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: has changed"):
        load_bundle(copy)


def test_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        load_bundle(tmp_path)


def test_views_of_different_protocols_are_not_bundled(model, tmp_path, protocol):
    from quicknat.labels import Protocol

    other = Protocol("quicknat33", protocol.table)
    models = {view: model.parent / "views" / view for view in VIEWS}
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    with pytest.raises(InputError, match="train it again"):
        write_bundle(models, other, weights, 4.0, 64, 48, tmp_path / "out")
    weights["axial"] = 0.9
    with pytest.raises(InputError, match=r"add up to 1\.5"):
        write_bundle(models, protocol, weights, 4.0, 64, 48, tmp_path / "out")
