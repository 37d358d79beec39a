"""Unusual scans that are used (cases 16 to 29), and what is said about them in the quality file."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import save_header
from in_process import quicknat
from quicknat.images.conform import conform, head_window, record_grid
from quicknat.images.resampling import resample_labels
from quicknat.images.training_stats import summarise
from quicknat.images.volumes import Volume, read_volume
from quicknat.segmentation.batch import segment_file
from quicknat.segmentation.inference import segment
from quicknat.segmentation.tasks import Task


def bright(classes):
    """A rule: pixels brighter than air get these classes."""
    return lambda x: torch.where(x > 0.3, classes(x), 0)


@pytest.fixture
def whole(protocol):
    """A rule: all that is bright is brain stem."""
    return bright(lambda x: torch.full_like(x, protocol.names.index("Brain stem")).long())


@pytest.fixture
def sides(protocol):
    """A rule: what is bright is left or right cortex, by the half of the slice that it is in."""
    left, right = (protocol.names.index(f"{side} cerebral cortex") for side in ("Left", "Right"))

    def by_half(x):
        half = torch.arange(x.shape[1])[:, None] < x.shape[1] / 2
        return torch.where(half, left, right).expand(x.shape)

    return bright(by_half)


@pytest.fixture
def segmented(tmp_path):
    """Segment voxels with a model: the label map, the volumes by name, and the flags by name."""

    def run(bundle, data, affine, name="sub-1"):
        path = tmp_path / f"{name}.nii"
        nib.save(nib.Nifti1Image(data, affine), path)
        segment_file(bundle, Task(path, name), tmp_path / "out")
        stem = f"{tmp_path}/out/{name}/anat/{name}_desc-quicknat_"
        volumes = pd.read_csv(f"{stem}volumes.tsv", sep="\t").set_index("name")["volume_mm3"]
        found = json.loads(Path(f"{stem}qc.json").read_text())["flags"]
        flags = {flag["flag"]: flag["reason"] for flag in found}
        return nib.load(f"{stem}dseg.nii.gz"), volumes, flags

    return run


@pytest.mark.case(20)
def test_oblique_scan_gets_its_labels_on_its_own_grid(stand_in, whole, ball, segmented):
    data, affine = ball((2, 2, 2))
    data[:20] = 0  # not the same from all sides
    angle = np.deg2rad(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    labels, _, _ = segmented(stand_in(whole), data, turn @ affine)
    assert labels.shape == data.shape
    np.testing.assert_allclose(labels.affine, turn @ affine, atol=1e-4)
    found, truth = np.asarray(labels.dataobj) > 0, data > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


@pytest.mark.case(21)
@pytest.mark.parametrize(
    ("spacing", "flagged"), [((0.7, 0.7, 0.7), False), ((1, 1, 3), True), ((1, 5, 1), True)]
)
def test_thick_and_thin_voxels_are_segmented_and_thick_ones_are_flagged(
    stand_in, whole, ball, segmented, spacing, flagged
):
    data, affine = ball(spacing, side_mm=72, radius_mm=30)
    labels, volumes, flags = segmented(stand_in(whole), data, affine)
    assert labels.shape == data.shape
    np.testing.assert_allclose(labels.header.get_zooms(), spacing, atol=1e-5)
    assert volumes["Brain stem"] == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.25)
    assert ("thick_slices" in flags) == flagged
    if flagged:
        assert f"{max(spacing)} mm" in flags["thick_slices"]


@pytest.mark.case(22)
def test_head_larger_than_the_cube_is_flagged_with_the_share_that_is_lost(
    stand_in, whole, ball, segmented
):
    large = ball((4, 4, 4), side_mm=320, radius_mm=150)  # the cube of the model is 192 mm
    labels, _, flags = segmented(stand_in(whole), *large)
    assert "% of the head is outside the grid" in flags["head_cut_off"]
    assert labels.shape == large[0].shape
    _, _, flags = segmented(stand_in(whole), *ball((4, 4, 4), side_mm=320))  # air all around
    assert "head_cut_off" not in flags


@pytest.mark.case(22)
def test_conversion_warns_of_a_head_that_does_not_fit(ball, tmp_path):
    path = tmp_path / "scan.nii"
    data, affine = ball((8, 8, 8), side_mm=320, radius_mm=150)
    nib.save(nib.Nifti1Image(data + ball((8, 8, 8), 320, 40)[0], affine), path)
    options = ("--spacing", 8, "--size", 16)
    done = quicknat("-q", "convert", path, "--output", tmp_path / "out.nii.gz", *options)
    assert done.status == 0
    assert len(done.err) == 1 and "of the head lies outside the 128 mm cube" in done.err[0]


@pytest.mark.case(23)
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("before", [True, False])
def test_brain_of_an_off_centre_head_stays_in_the_window(head, demo_dseg, axis, before):
    widths = np.zeros((3, 2), int)
    widths[axis] = (25, 0) if before else (0, 25)  # 50 mm of air

    def padded(volume):
        moved = volume.affine @ nib.affines.from_matvec(np.eye(3), -widths[:, 0])
        return Volume(np.pad(volume.data, widths), moved, volume.path)

    image, grid, _ = conform(padded(head), 4.0, 64)
    brain = np.argwhere(resample_labels(padded(demo_dseg), grid) > 0)
    start = np.array(head_window(image, 4.0, 48))
    assert len(brain) > 1000 and np.all(brain >= start) and np.all(brain < start + 48)


@pytest.mark.case(26)
@pytest.mark.parametrize(("slope", "factor"), [(np.nan, 1), (0, 1), (0.5, 0.5)])
def test_scale_factor_is_applied_and_none_is_assumed_where_it_is_no_number(tmp_path, slope, factor):
    pixels = np.random.default_rng(1).integers(1, 200, (12, 14, 16)).astype(np.int16)
    scale = {"scl_slope": slope, "scl_inter": 0}
    path = save_header(tmp_path / "scan.nii.gz", pixels, np.eye(4), np.eye(4), **scale)
    np.testing.assert_allclose(read_volume(path).data, pixels * factor)


SHELLS = ["Left cerebral cortex", "Left cerebral white matter", "Left thalamus", "Left putamen",
          "Left lateral ventricle", "Left hippocampus"]  # fmt: skip
T1W = [110, 180, 140, 150, 40, 120]
SKIN = 130


@pytest.fixture(scope="module")
def shells(protocol, stand_in):
    """A model that puts structures into nested squares of a slice, whatever their contrast.

    It comes with the statistics of a T1-like scan of such squares.
    """
    indices = torch.tensor([protocol.names.index(name) for name in SHELLS])

    def by_place(x):
        side = x.shape[-1]
        far = (torch.arange(side) - (side - 1) / 2).abs()
        ring = (torch.maximum(far[:, None], far[None]) / 1.7).long()
        inside = ring < len(indices)
        classes = torch.where(inside, indices[ring.clamp(max=len(indices) - 1)], 0)
        return classes.expand(x.shape)

    bundle = stand_in(by_place)
    data, affine = nested(T1W)
    image, grid, record = conform(Volume(data, affine, "t1.nii"), 6.0, 32)
    found = segment(bundle, image, grid.affine, record_grid(record))
    known = summarise([found.statistics], protocol.partners("coronal"))
    bundle.training_stats.update(json.loads(json.dumps(known)))
    return bundle


def nested(values, skin=SKIN, air=0):
    """Nested cubes of 4 mm voxels with a value each, and skin around them."""
    far = np.abs(np.arange(48) - 23.5)
    ring = np.maximum.reduce(np.broadcast_arrays(far[:, None, None], far[:, None], far)) / 2.5
    data = np.full((48, 48, 48), air, np.int16)
    data[ring < 8.5] = skin
    for number in reversed(range(len(values))):
        data[ring < number + 1] = values[number]
    affine = np.diag([4, 4, 4, 1.0])
    affine[:3, 3] = -94
    return data, affine


KINDS = {  # voxels, and the flag with its reason
    "like the training scans": (nested([value + 3 for value in T1W]), "", ""),
    "skull-stripped": (nested(T1W, skin=0), "other_field", "this scan looks skull-stripped"),
    "T2w": (nested([220 - value for value in T1W]), "other_contrast", "is this a T1w scan?"),
    # Hounsfield units: grey matter above white matter, fluid near 0, bone bright, air at -1000
    "CT": (nested([37, 28, 36, 38, 4, 37], skin=900, air=-1000), "other_modality",
           "like air in CT"),
}  # fmt: skip


@pytest.mark.case(28)
@pytest.mark.parametrize("kind", KINDS)
def test_scan_of_another_kind_is_flagged(shells, segmented, kind):
    scan, flag, reason = KINDS[kind]
    _, _, flags = segmented(shells, *scan)
    assert "label_map" in flags  # nor have these scans any noise
    if flag:
        assert reason in flags[flag]
    else:
        assert not {"other_field", "other_contrast", "other_modality"} & set(flags)


@pytest.mark.case(76)
def test_noise_of_full_range_where_there_is_no_signal_is_flagged(shells, segmented):
    data, affine = nested(T1W)
    noise = np.random.default_rng(0).integers(0, 200, data.shape)
    _, _, flags = segmented(shells, np.where(data, data, noise).astype(np.int16), affine)
    assert "UNI-DEN" in flags["noisy_background"]
    assert "noisy_background" not in segmented(shells, data, affine)[2]


@pytest.mark.case(29)
def test_mirrored_copy_swaps_left_and_right_volumes(stand_in, sides, ball, segmented):
    """The same scan whose axes are stored in another direction does not."""
    data, affine = ball((6, 6, 6))  # the model's voxels, so that its middle is the ball's
    data[10:] = 0  # more of the left, since the axes run to the right
    names = [f"{side} cerebral cortex" for side in ("Left", "Right")]
    _, volumes, _ = segmented(stand_in(sides), data, affine)
    left, right = volumes[names]
    assert left > 2 * right > 0
    _, volumes, _ = segmented(stand_in(sides), data[::-1], affine, "sub-mirrored")
    assert volumes[names].tolist() == pytest.approx([right, left])
    turned = nib.Nifti1Image(data, affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    turned = np.asarray(turned.dataobj), turned.affine
    _, volumes, _ = segmented(stand_in(sides), *turned, "sub-turned")
    assert volumes[names].tolist() == pytest.approx([left, right])
