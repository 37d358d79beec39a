"""From probabilities back to the native grid, and what is written there."""

import json
import shutil
from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from quicknat.batch import Options, Task, find_scans, segment_all, segment_file
from quicknat.bundle import Bundle, load_bundle, write_bundle
from quicknat.conform import conform, record_grid, resample
from quicknat.errors import InputError
from quicknat.inference import (
    Prediction,
    aggregate,
    normalised_entropy,
    segment,
    slice_probabilities,
    to_native,
    view_agreement,
)
from quicknat.network import NetworkSettings, QuickNAT
from quicknat.optimizers import TrainingSettings
from quicknat.slices import VIEWS
from quicknat.training import train_view
from quicknat.volumes import Grid, Volume, sha256


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


@pytest.mark.slow
def test_all_48_orientations_of_a_scan_give_the_same_labels_in_space(model, head):
    bundle = load_bundle(model)
    codes = ["".join(axes) for axes in permutations("RAS")]
    opposite = dict(zip("RAS", "LPI", strict=True))
    mine = nib.Nifti1Image(head.data.astype(np.float32), head.affine)
    start, found = nib.io_orientation(head.affine), []
    for code in codes:
        for flips in product((False, True), repeat=3):
            axes = [opposite[c] if flip else c for c, flip in zip(code, flips, strict=True)]
            turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
            turned = mine.as_reoriented(turn)
            volume = Volume(np.asarray(turned.dataobj), turned.affine, head.path)
            image, grid, record = conform(volume, bundle.spacing_mm, bundle.conform_size)
            result = segment(bundle, image, grid.affine, record_grid(record), batch=16)
            labels = nib.Nifti1Image(result.labels, turned.affine)
            back = labels.as_reoriented(
                nib.orientations.ornt_transform(nib.io_orientation(turned.affine), start)
            )
            found.append(np.asarray(back.dataobj))
    assert len(found) == 48 and np.count_nonzero(found[0])
    differing = [np.count_nonzero(labels != found[0]) for labels in found]
    assert max(differing) == 0, differing


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
    bundle = Bundle(networks, weights, protocol, 2.0, 32, 32, "x", {})
    image = np.full((32, 32, 32), 200, np.uint8)
    prediction = aggregate(bundle, image)
    total = prediction.probabilities
    assert total.shape == (28, 32, 32, 32) and prediction.start == (0, 0, 0)
    assert {view: int(vote.unique()) for view, vote in prediction.votes.items()} == {
        "coronal": left, "axial": 3, "sagittal": int(protocol.sagittal[left]),
    }  # fmt: skip
    found = {index: total[index, 5, 6, 7].item() for index in (left, right, 3, 0)}
    assert found == pytest.approx({left: 0.6, right: 0.2, 3: 0.4, 0: 0.0}, abs=1e-5)


def test_only_the_box_that_shows_something_is_computed_and_the_rest_is_background(protocol):
    k = protocol.names.index("Brain stem")
    networks = {
        "coronal": Certain(28, k),
        "axial": Certain(28, k),
        "sagittal": Certain(16, int(protocol.sagittal[k])),
    }
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    bundle = Bundle(networks, weights, protocol, 2.0, 32, 32, "x", {})
    image = np.zeros((32, 32, 32), np.uint8)
    image[4:20, 6:26, 10:30] = 200
    image[11] = 0  # a sagittal slice without anything, in the midst
    prediction = aggregate(bundle, image, batch=3)
    total = prediction.probabilities
    assert total.shape == (28, 16, 20, 20) and prediction.start == (4, 6, 10)
    np.testing.assert_allclose(total.sum(dim=0), 1, atol=1e-5)
    assert total[k, 0].min().item() == pytest.approx(1, abs=1e-5)
    assert total[k, 7].max().item() == pytest.approx(0.8, abs=1e-5)
    assert total[0, 7].min().item() == pytest.approx(0.2, abs=1e-5)
    nothing = aggregate(bundle, image * 0).probabilities
    assert not to_native(nothing, np.eye(4), Grid((5, 6, 7), np.eye(4))).any()


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
    segment_file(load_bundle(model), Task(head_file, "sub-1"), tmp_path / "out")
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
    made = json.loads((anat / "sub-1_desc-quicknat_dseg.json").read_text())
    assert made["source"] == {"path": str(head_file), "sha256": sha256(head_file)}
    assert made["model"]["sha256"] == sha256(model / "bundle.json")
    assert made["device"] == "cpu" and set(made["seconds"]) == {"read", "segment"}


def test_scan_that_fails_does_not_stop_the_others_and_is_listed(model, head_file, tmp_path):
    broken = tmp_path / "sub-2_T1w.nii.gz"
    broken.write_bytes(head_file.read_bytes()[:5000])
    tasks = [Task(broken, "sub-2"), Task(head_file, "sub-1"), Task(tmp_path / "no.nii", "sub-3")]
    outcomes = segment_all(load_bundle(model), tasks, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "failed"]
    table = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t").set_index("name")
    assert "damaged" in table.loc["sub-2", "reason"]
    assert "no such file" in table.loc["sub-3", "reason"]
    assert not (tmp_path / "out/sub-2").exists()
    described = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"


def test_scan_done_before_is_skipped_until_it_or_the_model_changes(
    model, head, head_file, tmp_path
):
    def status(bundle, **options):
        (outcome,) = segment_all(bundle, find_scans([head_file]), tmp_path / "out", **options)
        return outcome.status

    bundle = load_bundle(model)
    assert [status(bundle), status(bundle)] == ["done", "skipped"]
    assert status(bundle, overwrite=True) == "done"
    assert status(replace(bundle, identity="another")) == "done"
    assert status(bundle) == "done"
    nib.save(nib.Nifti1Image(head.data.astype(np.int16)[:, :, ::-1], head.affine), head_file)
    assert status(bundle) == "done"
    (tmp_path / "out/sub-head/anat/sub-head_desc-quicknat_dseg.nii.gz").unlink()
    assert status(bundle) == "done"


def test_folders_and_bids_data_sets_give_their_scans(tmp_path):
    names = ["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii"]
    others = ["sub-02/anat/sub-02_T2w.nii.gz", "derivatives/sub-03/anat/sub-03_T1w.nii.gz"]
    for name in ["dataset_description.json", *names, *others]:
        (tmp_path / "bids" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bids" / name).touch()
    (tmp_path / "plain").mkdir()
    for name in ("a.MGZ", "b.nii", "c.img", "c.hdr", "notes.txt"):
        (tmp_path / "plain" / name).touch()
    found = find_scans([tmp_path / "bids", tmp_path / "plain"])
    assert [task.name for task in found] == [
        "sub-01_ses-1", "sub-02", "sub-a", "sub-b", "sub-c",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"would get the name of .*b\.nii, sub-b"):
        find_scans([tmp_path / "plain", tmp_path / "plain/b.nii"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no scan"):
        find_scans([tmp_path / "empty"])


def test_sampling_measures_disagreement_and_repeats_itself(model, head_file, tmp_path):
    bundle = load_bundle(model)

    def table(name, samples):
        options = Options(samples=samples, batch_size=16)
        return segment_file(bundle, Task(head_file, name), tmp_path, options)

    with pytest.raises(InputError, match="trained without dropout"):
        table("sub-1", 2)
    for network in bundle.networks.values():
        network.dropout.p = 0.5
        network.settings = replace(network.settings, dropout=0.5)
    once, again, plain = table("sub-1", 3), table("sub-2", 3), table("sub-3", 0)
    pd.testing.assert_frame_equal(once, again)
    assert once["iou"].max() < 1 and once["cv"].max() > 0
    assert "iou" not in plain and plain["view_agreement"].between(0, 1).any()
    assert not any(network.dropout.training for network in bundle.networks.values())


def test_view_agreement_is_the_mean_dice_between_views_and_result(protocol):
    left, right = (protocol.names.index(f"{side} putamen") for side in ("Left", "Right"))
    labels = torch.tensor([left, left, right, 0]).reshape(1, 2, 2)
    votes = {
        "coronal": labels,  # Dice 1 and 1
        "axial": torch.tensor([left, 0, 0, 0]).reshape(1, 2, 2),  # 2·1/(2+1) and 0
        "sagittal": torch.tensor(protocol.sagittal[[left, left, right, right]]).reshape(1, 2, 2),
    }  # the last in merged classes: 2·3/(3+4) for both
    found = view_agreement(Prediction(None, (0, 0, 0), votes), labels, protocol)
    assert found[left] == pytest.approx((1 + 2 / 3 + 6 / 7) / 3)
    assert found[right] == pytest.approx((1 + 0 + 6 / 7) / 3)
    assert np.isnan(found[protocol.names.index("Brain stem")])


def test_full_memory_makes_the_batches_smaller_and_loses_no_slice(protocol, caplog):
    class Small(Certain):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError
            return super().forward(x)

    bundle = Bundle({"axial": Small(28, 5)}, {}, protocol, 2.0, 32, 32, "x", {})
    image = np.full((32, 32, 32), 200, np.uint8)
    found = dict(slice_probabilities(bundle, "axial", image, batch=8))
    assert sorted(found) == list(range(32)) and found[31].shape == (32, 32, 28)
    assert "going on with 2 slices at a time" in caplog.text


def test_bfloat16_gives_nearly_the_same_probabilities(model, head_file):
    exact, rounded = load_bundle(model), load_bundle(model, bfloat16=True)
    network = rounded.networks["axial"]
    assert network.bottleneck.convs[0].weight.dtype == torch.bfloat16
    assert network.encoders[0].convs[0].weight.dtype == torch.float32
    x = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        one, other = (b.networks["axial"](x).softmax(dim=1) for b in (exact, rounded))
    assert other.dtype == torch.float32 and not torch.equal(one, other)
    assert (one - other).abs().mean() < 0.002
    first = exact.networks["axial"].encoders[0].state_dict()
    for key, value in network.encoders[0].state_dict().items():
        assert torch.equal(value, first[key])  # not rounded on the way


def test_networks_load_as_they_were_saved(model):
    bundle = load_bundle(model)
    assert set(bundle.networks) == set(VIEWS)
    assert isinstance(bundle.networks["axial"], QuickNAT) and not bundle.networks["axial"].training


@pytest.mark.parametrize("name", ["coronal.safetensors", "labels.tsv"])
def test_model_with_a_changed_byte_is_refused(model, tmp_path, name):
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


def test_model_of_an_earlier_version_is_not_bundled(model, tmp_path, protocol):
    models = {view: tmp_path / view for view in VIEWS}
    shutil.copytree(model.parent / "views", tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "coronal/model.json").read_text())
    del described["population"]
    (tmp_path / "coronal/model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="earlier version; train it again"):
        write_bundle(models, protocol, dict.fromkeys(VIEWS, 1 / 3), 4.0, 64, 48, tmp_path / "out")


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
