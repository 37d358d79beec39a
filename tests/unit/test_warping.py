"""A labelled scan takes on another brain's shape, and its labels stay those of its image."""

import nibabel as nib
import numpy as np
import pytest

from helpers import LABELS
from in_process import quicknat
from quicknat.images.volumes import Volume, read_volume
from quicknat.synthesis.warping import warp

BRIGHTNESS = np.array([0, 200, 120, 40], np.float32)  # air, white matter, cortex, a ventricle


def brain(ventricle, side=48):
    """Class indices of nested ellipsoids; `ventricle` is the innermost one's radius in voxels."""
    x, y, z = np.indices((side,) * 3) - (side - 1) / 2
    distance = np.sqrt(x**2 + (y / 1.1) ** 2 + (z / 0.9) ** 2)
    return np.select([distance < ventricle, distance < 14, distance < 18], [3, 1, 2]).astype("u1")


@pytest.mark.slow
def test_small_ventricle_grows_to_that_of_the_other_brain_and_stays_dark():
    young, old = brain(4), brain(8)
    noise = np.random.default_rng(0).normal(0, 5, young.shape)
    image = (BRIGHTNESS[young] + noise).astype(np.float32)
    volumes = [Volume(data, np.diag([4.0, 4, 4, 1]), None) for data in (image, young, old)]
    copy, classes, _ = warp(*volumes, spacing_mm=4.0)
    grown = (classes == 3).sum() / (old == 3).sum()
    assert 0.7 < grown < 1.3 and (young == 3).sum() < 0.3 * (old == 3).sum()
    assert set(np.unique(classes)) == {0, 1, 2, 3}
    for index in range(4):  # what is deformed alike still fits
        assert abs(np.median(copy[classes == index]) - BRIGHTNESS[index]) < 15
    again = warp(*volumes, spacing_mm=4.0)
    np.testing.assert_array_equal(again[0], copy)
    np.testing.assert_array_equal(again[1], classes)


@pytest.fixture
def files(tmp_path):
    """A scan, its labels, and another label map (all in FreeSurfer's numbers), as files."""
    numbers, affine = np.array([0, 2, 3, 4]), np.diag([4.0, 4, 4, 1])
    for name, radius in (("young", 4), ("old", 8)):
        labels = numbers[brain(radius)].astype(np.int16)
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"{name}_aseg.nii.gz")
    image = BRIGHTNESS[brain(4)].astype(np.int16)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "young_T1w.nii.gz")
    return tmp_path


def command(folder, labels="young_aseg.nii.gz"):
    return quicknat(
        "warp", folder / "young_T1w.nii.gz", "--labels", folder / labels,
        "--like", folder / "old_aseg.nii.gz", "--spacing", "4",
        "--protocol", LABELS / "quicknat28.tsv",
        "--output", folder / "copy_T1w.nii.gz", "--labels-output", folder / "copy_dseg.nii.gz",
    )  # fmt: skip


@pytest.mark.slow
def test_command_writes_a_pair_on_one_grid_in_the_protocols_classes(files):
    done = command(files)
    assert done.status == 0, str(done)
    image, labels = (read_volume(files / f"copy_{kind}.nii.gz") for kind in ("T1w", "dseg"))
    np.testing.assert_allclose(image.affine, labels.affine)
    assert image.shape == labels.shape == (48, 48, 48)
    assert set(np.unique(labels.data)) == {0, 1, 2, 5}  # white matter, cortex, lateral ventricle


def test_labels_that_are_not_on_the_scans_grid_are_refused(files):
    moved = nib.load(files / "young_aseg.nii.gz")
    moved = nib.Nifti1Image(np.asarray(moved.dataobj)[:-1], moved.affine)
    nib.save(moved, files / "moved_aseg.nii.gz")
    done = command(files, "moved_aseg.nii.gz")
    assert done.status == 1 and "moved_aseg.nii.gz" in str(done)
    assert not list(files.glob("copy_*"))
