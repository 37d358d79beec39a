"""A labelled scan takes on another brain's shape, and its labels stay those of its image."""

import numpy as np
import pytest

from helpers import save
from in_process import quicknat
from quicknat.images.volumes import read_volume

BRIGHTNESS = np.array([0, 200, 120, 40], np.float32)  # air, white matter, cortex, a ventricle


def brain(ventricle, side=48):
    """Class indices of nested ellipsoids; `ventricle` is the innermost one's radius in voxels."""
    x, y, z = np.indices((side,) * 3) - (side - 1) / 2
    distance = np.sqrt(x**2 + (y / 1.1) ** 2 + (z / 0.9) ** 2)
    return np.select([distance < ventricle, distance < 14, distance < 18], [3, 1, 2]).astype("u1")


@pytest.fixture
def files(tmp_path):
    """A noisy scan, its labels, and another label map (in FreeSurfer's numbers), as files."""
    numbers, affine = np.array([0, 2, 3, 4], np.int16), np.diag([4.0, 4, 4, 1])
    for name, radius in (("young", 4), ("old", 8)):
        save(tmp_path / f"{name}_aseg.nii.gz", numbers[brain(radius)], affine)
    image = BRIGHTNESS[brain(4)] + np.random.default_rng(0).normal(0, 5, (48, 48, 48))
    save(tmp_path / "young_T1w.nii.gz", image.astype(np.int16), affine)
    return tmp_path


def command(folder, labels="young_aseg.nii.gz"):
    return quicknat(
        "warp", folder / "young_T1w.nii.gz", "--labels", folder / labels,
        "--like", folder / "old_aseg.nii.gz", "--spacing", "4",
        "--protocol", "quicknat28",
        "--output", folder / "copy_T1w.nii.gz", "--labels-output", folder / "copy_dseg.nii.gz",
    )  # fmt: skip


@pytest.mark.slow
def test_small_ventricle_grows_to_that_of_the_other_brain_and_stays_dark(files):
    """The pair is on one grid, in the protocol's classes."""
    done = command(files)
    assert done.status == 0, str(done)
    image, labels = (read_volume(files / f"copy_{kind}.nii.gz") for kind in ("T1w", "dseg"))
    np.testing.assert_allclose(image.affine, labels.affine)
    assert image.shape == labels.shape == (48, 48, 48)
    young, old, grown = (brain(4) == 3).sum(), (brain(8) == 3).sum(), (labels.data == 5).sum()
    assert 0.7 < grown / old < 1.3 and young < 0.3 * old
    classes = [0, 1, 2, 5]  # background, white matter, cortex, lateral ventricle
    assert np.unique(labels.data).tolist() == classes
    for index, brightness in zip(classes, BRIGHTNESS, strict=True):  # deformed alike
        assert abs(np.median(image.data[labels.data == index]) - brightness) < 15


def test_labels_that_are_not_on_the_scans_grid_are_refused(files):
    labels = read_volume(files / "young_aseg.nii.gz")
    save(files / "moved_aseg.nii.gz", labels.data[:-1], labels.affine)
    done = command(files, "moved_aseg.nii.gz")
    assert done.status == 1 and "moved_aseg.nii.gz" in str(done)
    assert not list(files.glob("copy_*"))
