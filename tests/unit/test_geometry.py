"""No label leaves its voxel: positions of structures before and after conforming, and back."""

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from helpers import ORIENTATIONS, reoriented
from quicknat.images.conform import conform, conform_labels, conformed_grid
from quicknat.images.resampling import resample, resample_labels
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.segmentation.native import to_native

# centre and semi-axes in mm: the first two are twins that touch
STRUCTURES = {
    1: ((-18, 3, 4), (18, 30, 22)),
    2: ((18, 3, 4), (18, 30, 22)),
    3: ((2, -24, -24), (20, 14, 12)),
    4: ((1, 21, -23), (9, 9, 9)),
}
PARITIES = list(product((0, 1), repeat=3))
ISOTROPIC = [(side,) * 3 for side in (0.5, 0.7, 0.8, 1.2, 1.5, 2, 3, 4, 5)]
QUICK = [(3, 3, 3), (1, 1.33, 1.33)]
VOXELS = [
    pytest.param(
        zooms,
        id=str(zooms),
        marks=[pytest.mark.slow] * (zooms not in QUICK) + [pytest.mark.long] * (max(zooms) < 1),
    )
    for zooms in (*ISOTROPIC, (1, 1, 3), (1, 1.33, 1.33), (0.9, 0.9, 5))
]


def head_of_structures(zooms, parity=(0, 0, 0), tilt=0.0, middle=(0, 0, 0), sizes=84):
    """Label map of :data:`STRUCTURES` on a grid of about `sizes` mm, tilted about all axes."""
    shape = tuple(int(sizes / zoom) // 2 * 2 + odd for zoom, odd in zip(zooms, parity, strict=True))
    turn = Rotation.from_euler("xyz", [tilt] * 3, degrees=True).as_matrix()
    matrix = turn @ np.diag(zooms)
    affine = from_matvec(matrix, np.array(middle) - matrix @ ((np.array(shape) - 1) / 2))
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    data = np.zeros(shape, np.uint8)
    for index, (centre, radii) in STRUCTURES.items():
        data[(((points - centre) / radii) ** 2).sum(axis=-1) < 1] = index
    return Volume(data, affine, Path("labels"))


def turned(volume, codes):
    """The same voxels stored in another order."""
    image = reoriented(nib.Nifti1Image(volume.data, volume.affine), codes)
    return Volume(np.asarray(image.dataobj), image.affine, volume.path)


def centroids(data, affine):
    return np.array([apply_affine(affine, np.argwhere(data == k).mean(axis=0)) for k in STRUCTURES])


def back(conformed, grid, native, softness=0.6):
    """The most probable class on the native grid, of networks that found `conformed`."""
    inside = np.argwhere(conformed > 0)
    low, high = inside.min(axis=0) - 4, inside.max(axis=0) + 5  # as the networks' window is cut
    part = conformed[tuple(map(slice, low, high))].astype(np.int64)
    sharp = F.one_hot(torch.from_numpy(part)).movedim(-1, 0).float()
    probabilities = torch.from_numpy(ndimage.gaussian_filter(sharp, (0, *[softness] * 3)))
    affine = from_matvec(grid.affine[:3, :3], apply_affine(grid.affine, low))
    return to_native([(probabilities, affine)], Grid(native.shape, native.affine))


@pytest.mark.case(19)
@pytest.mark.parametrize(
    "parity", [(1, 0, 1), *(pytest.param(p, marks=pytest.mark.long) for p in PARITIES)]
)
def test_scan_with_the_grid_s_voxels_is_only_flipped_cropped_and_padded(parity):
    """In all 48 orientations networks get the same image, and their labels return to its voxels.

    The field of view is larger than the cube.
    """
    labels = head_of_structures((2, 2, 2), parity, sizes=104)
    noise = np.random.default_rng(0).integers(100, 1000, labels.shape)
    scan = Volume(np.where(labels.data > 0, noise, 0).astype(np.int16), labels.affine, "scan")
    first, same_grid, record = conform(scan, 2.0, 48)
    low, high = record["intensity_at_0_and_255"]
    coarse, coarse_grid, _ = conform(scan, 3.0, 40)  # resampled
    for codes in ORIENTATIONS:
        one, native = turned(scan, codes), turned(labels, codes)
        image, grid, _ = conform(one, 2.0, 48)
        assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")
        np.testing.assert_allclose(grid.affine, same_grid.affine, atol=1e-9)
        assert np.array_equal(image, first), codes
        again, other_grid, _ = conform(one, 3.0, 40)
        np.testing.assert_allclose(other_grid.affine, coarse_grid.affine, atol=1e-9)
        assert np.array_equal(again, coarse), codes
        conformed = resample_labels(native, grid)
        assert np.array_equal(
            np.bincount(conformed.ravel())[1:], np.bincount(native.data.ravel())[1:]
        )
        moved = centroids(conformed, grid.affine) - centroids(native.data, native.affine)
        np.testing.assert_allclose(moved, 0, atol=1e-9)
        assert np.array_equal(back(conformed, grid, native, softness=0), native.data)
        values = resample(one, grid)
        assert values.dtype == np.int16 and np.array_equal(np.unique(values), np.unique(scan.data))
        assert np.array_equal(values > 0, conformed > 0)
        expected = np.clip((values - low) * 255 / (high - low), 0, 255)
        np.testing.assert_allclose(image, expected, atol=0.51)  # but for rounding to 8 bits


@pytest.mark.parametrize(
    "size, degrees, kept", [(1.0009, 0.09, True), (1.002, 0, False), (1, 0.2, False)]
)
def test_voxels_of_nearly_the_grid_s_size_and_direction_are_kept(size, degrees, kept):
    labels = head_of_structures((2 * size,) * 3, (1, 1, 0), tilt=degrees / np.sqrt(3))
    grid = conformed_grid(labels, 2.0, 48)
    found = resample_labels(labels, grid)
    assert kept == np.allclose(np.abs(grid.affine[:3, :3]), np.abs(labels.affine[:3, :3]))
    moved = centroids(found, grid.affine) - centroids(labels.data, labels.affine)
    assert np.abs(moved).max() < (1e-9 if kept else 0.2)


def displacements(native):
    """How far structures move (mm): onto a grid of 1 mm, and from there back."""
    grid = conformed_grid(native, 1.0, 128)
    conformed = resample_labels(native, grid)
    before = centroids(native.data, native.affine)
    returned = back(conformed, grid, native)
    return centroids(conformed, grid.affine) - before, centroids(returned, native.affine) - before


@pytest.mark.parametrize("tilt", [0, 12])
@pytest.mark.parametrize("zooms", VOXELS)
def test_labels_of_other_voxel_sizes_stay_where_they_are(zooms, tilt):
    """No side is preferred, whatever the parity of the field of view.

    A label map can say where a structure lies to a fraction of a voxel alone: so what is asked for
    is the mean over structures at random places, and of each that it moves by less than a tenth of
    the larger voxel.
    """
    random = np.random.default_rng(1)
    moves = [
        displacements(head_of_structures(zooms, parity, tilt, random.uniform(-3, 3, 3)))
        for parity in (PARITIES[::3] if min(zooms) < 1 else PARITIES)
    ]
    for moved in zip(*moves, strict=True):
        assert np.abs(np.mean(moved, axis=(0, 1))).max() < 0.05
        assert np.abs(moved).max() < 0.12 * max(1, *zooms)


@pytest.mark.parametrize("zooms", [(1, 1, 1), (1, 1, 2), (2, 2, 2), (1, 1, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("parity", PARITIES)
def test_voxels_that_hold_whole_numbers_of_the_grid_s_keep_each_structure_in_place(zooms, parity):
    assert np.abs(displacements(head_of_structures(zooms, parity))).max() < 0.05


@pytest.mark.parametrize("side, count", [(0.8, 256), (1.2, 150)])
def test_grid_as_a_file_s_header_holds_it_prefers_no_side_either(side, count):
    """Its numbers are float32: half-way is not quite half-way any more, to one side everywhere."""
    data = np.zeros((count, 8, 8), np.uint8)
    data[count // 3 : 2 * count // 3] = 1
    starts = -160 + np.random.default_rng(0).uniform(-30, 30, 500)
    start = max(starts, key=lambda number: abs(np.float32(number) - number))  # rounded most
    for first in (start, -start - 255):  # and to either side
        affine = from_matvec(np.diag([side] * 3), [first + 127 - side * (count // 2 - 1), 0, 0])
        exact = Grid((256, 10, 10), from_matvec(np.eye(3), [first, 0, 0]))
        stored = Grid(exact.shape, exact.affine.astype(np.float32).astype(float))
        places = [
            np.argwhere(resample_labels(Volume(data, affine, "a"), grid))[:, 0].mean()
            for grid in (exact, stored)
        ]
        assert places[0] == pytest.approx(places[1], abs=0.01)


def test_labels_of_many_values_keep_their_type_and_numbers():
    data = np.zeros((20, 20, 20), np.int32)
    data[4:9, 4:15, 4:15], data[9:15, 4:15, 4:15] = 2035, 1035
    found = resample_labels(Volume(data, np.eye(4), "a"), Grid((30,) * 3, np.diag([0.7] * 3 + [1])))
    assert found.dtype == np.int32 and set(np.unique(found)) == {0, 1035, 2035}
    assert (found == 2035).sum() * 0.343 == pytest.approx(5 * 11 * 11, rel=0.05)


@pytest.mark.long
def test_manual_labels_of_real_scans_are_their_own_there_and_back(shared, protocol):
    """All 15, 14 of which have an odd number of voxels along some axis."""
    paths = sorted((shared / "data/malc").glob("*_SS.nii.gz"))
    assert len(paths) == 15
    for path in paths:
        scan = read_volume(path)
        labels = read_volume(path.with_name(path.name.replace("SS", "glm")))
        grid = conformed_grid(scan, 1.0, 256)
        native, conformed = conform_labels(labels, "neuromorphometrics", protocol, grid)
        assert np.array_equal(np.bincount(native.ravel())[1:], np.bincount(conformed.ravel())[1:])
        moved = [
            apply_affine(affine, np.argwhere(data > 0).mean(axis=0))
            for data, affine in ((native, labels.affine), (conformed, grid.affine))
        ]
        np.testing.assert_allclose(*moved, atol=1e-6)
        assert np.array_equal(back(conformed, grid, labels, softness=0), native)


@pytest.mark.long
def test_demo_s_copies_keep_labels_on_their_image(demo_dseg, head):
    """Labels explain most of the image's brightness where they are, not beside it."""
    from quicknat.download.demo import deform

    image, labels = deform(head, demo_dseg, seed=3)
    shifts = []
    for axis in range(3):  # labels fit best where they are: parabola through three places
        fit = [_explained(np.roll(image.data, step, axis), labels.data) for step in (1, 0, -1)]
        shifts.append((fit[0] - fit[2]) / (2 * (fit[0] - 2 * fit[1] + fit[2])))
    assert np.abs(shifts).max() < 0.1, shifts  # voxels; 0.17 with the nearest label


def _explained(image, labels):
    """Fraction of the brightness's variance within the brain that the labels explain."""
    values, groups = image[labels > 0].astype(float), labels[labels > 0]
    counts = np.maximum(np.bincount(groups), 1)
    means = np.bincount(groups, values) / counts
    return (counts * (means - values.mean()) ** 2 * (np.bincount(groups) > 0)).sum() / values.var()
