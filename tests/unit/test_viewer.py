"""What the interactive viewer gets: the original image, small enough, with the sides right."""

import base64
import gzip
import io
import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from PIL import Image
from scipy.spatial.transform import Rotation

from helpers import LABELS, save, write_conformed
from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.images.volumes import Volume
from quicknat.report.layers import load_layers, viewing_grid, write_viewer_volumes
from quicknat.report.scan_pictures import COLUMNS, ROWS, mosaic
from quicknat.report.structures import colour_blind_colors, outline_colors


def ball(affine, shape=(40, 44, 36), radius_mm=14):
    """A bright ball whose left half is class 1 and right half class 2, seen on some grid."""
    voxels = np.indices(shape).reshape(3, -1).T
    middle = apply_affine(affine, (np.array(shape) - 1) / 2)
    away = apply_affine(affine, voxels) - middle
    inside = (away**2).sum(axis=1) < radius_mm**2
    image = np.where(inside, 1000 + 10 * away[:, 1], 5).reshape(shape).astype(np.float32)
    labels = np.where(inside, np.where(away[:, 0] < 0, 1, 2), 0).reshape(shape).astype(np.uint8)
    return image, labels


@pytest.fixture
def layers_on(tmp_path):
    """Write the ball on a grid, and load it as the report does."""

    def load(affine, labels=None, reference=None, uncertainty=None):
        image, found = ball(affine)
        scan = save(tmp_path / "image.nii.gz", image, affine)
        write_conformed(scan, tmp_path / "scan.nii.gz", 2, 48)
        layers = {"p": found if labels is None else labels, "r": reference, "u": uncertainty}
        paths = [
            None if data is None else save(tmp_path / f"{key}.nii.gz", data, affine)
            for key, data in layers.items()
        ]
        return load_layers(tmp_path / "scan.nii.gz", *paths)

    return load


@pytest.fixture
def written(layers_on, tmp_path, protocol):
    """Call the viewer's writer; give the content of its file."""

    def write(affine, **layers):
        output = tmp_path / "volumes/sub-1.js"
        write_viewer_volumes(output, "sub-1", layers_on(affine, **layers), protocol)
        text = output.read_text()
        assert text.startswith("quicknatVolumes({") and text.endswith("});\n")
        return json.loads(text[len("quicknatVolumes(") : -3])

    return write


def unpacked(layer):
    """A layer of the file as an image, as the viewer's script makes it."""
    if isinstance(layer, str):
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer)))
    header = base64.b64decode(layer["header"])
    nx, ny, nz = np.frombuffer(header, np.int16, 3, 42)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(layer["tiles"]))).convert("L"))
    tiles = sheet.reshape(len(sheet) // ny, ny, layer["columns"], nx).swapaxes(1, 2)
    return nib.Nifti1Image.from_bytes(header + tiles.reshape(-1, ny, nx)[:nz].tobytes())


TURNED = nib.affines.from_matvec(  # left to right, oblique, slices first
    Rotation.from_euler("xyz", [4, -5, 3], degrees=True).as_matrix()
    @ [[0, -1.2, 0], [0, 0, 1], [1.5, 0, 0]],
    [9, -30, 4],
)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 2, 1.0]), TURNED])
def test_layers_share_a_grid_with_axes_near_ras_and_left_stays_left(layers_on, written, affine):
    layers = written(affine, reference=ball(affine)[1])
    image, prediction, reference = (
        unpacked(layers[key]) for key in ("image", "prediction", "reference")
    )
    for layer in (image, prediction, reference):
        assert nib.aff2axcodes(layer.affine) == ("R", "A", "S")
        assert layer.get_data_dtype() == np.uint8 and layer.shape == image.shape
        assert np.allclose(layer.affine, image.affine)
    labels = np.asarray(prediction.dataobj)
    left, right = (apply_affine(image.affine, np.argwhere(labels == k))[:, 0] for k in (1, 2))
    assert left.mean() < right.mean()
    # the ball's bright half lies in front, on the same voxels as the labels
    values = image.get_fdata()
    assert values[labels > 0].min() > 500 > values[labels == 0].mean()
    assert np.array_equal(labels, np.asarray(reference.dataobj))
    # the pictures of slices have the left on the left, too
    drawn = mosaic(layers_on(affine).prediction, "axial", voxel_sizes(image.affine), True)
    rows, columns = (n // parts for n, parts in zip(drawn.shape, (ROWS, COLUMNS), strict=True))
    middle = drawn[rows : 2 * rows, 3 * columns : 4 * columns]
    left, right = (np.argwhere(middle == index)[:, 1].mean() for index in (1, 2))
    assert left < right


def test_values_come_back_nearly_as_they_were(written):
    image, labels = ball(np.eye(4))
    uncertainty = np.where(labels, 0.5, 0).astype(np.float32)
    layers = written(np.eye(4), uncertainty=uncertainty)
    low, high = np.percentile(image, (0.5, 99.5))
    for key, data, span in (
        ("image", np.clip(image, low, high), high - low),
        ("uncertainty", uncertainty, 1),
    ):
        away = np.abs(unpacked(layers[key]).get_fdata() - data) / span
        assert away.mean() < 1 / 128 and np.percentile(away, 99) < 1 / 16, key


def test_centre_of_a_structure_lies_in_it_or_in_the_reference_and_absent_ones_have_none(written):
    both = ball(TURNED)[1]
    layers, again = (written(TURNED, labels=both * (both == 1), reference=both) for _ in "12")
    assert layers == again  # the same voxels give the same file
    reference = unpacked(layers["reference"])
    for row in layers["structures"]:
        if row["index"] > 2:
            assert row["centre"] is None
            continue
        voxel = np.rint(apply_affine(np.linalg.inv(reference.affine), row["centre"])).astype(int)
        assert reference.dataobj[tuple(voxel)] == row["index"]


@pytest.mark.parametrize(
    ("zooms", "voxel", "shape", "first"),
    [
        ((0.5, 0.5, 3), (1, 1, 3), (29, 29, 18), (-16.75, -26.75, 188)),
        ((1, 1, 1), (1, 1, 1), (34, 34, 34), (28, 18, 8)),
        ((0.95, 2, 1), (0.95, 2, 1), (36, 22, 34), (23.15, 108, 8)),
    ],
)
def test_grid_has_no_voxels_much_finer_than_1_mm_and_a_margin(zooms, voxel, shape, first):
    labels = np.zeros((200, 190, 180), np.uint8)
    labels[90:100, 90:100, 90:100] = 1
    affine = nib.affines.from_matvec(np.diag(zooms), [-50, -60, -70])
    grid = viewing_grid(Volume(labels, affine, "x"))
    assert grid.shape == shape
    np.testing.assert_allclose(voxel_sizes(grid.affine), voxel)
    np.testing.assert_allclose(grid.affine[:3, 3], first)


def test_empty_prediction_shows_the_whole_scan_and_another_grid_is_refused_by_name(written):
    empty = np.zeros_like(ball(np.eye(4))[1])
    assert unpacked(written(np.eye(4), labels=empty)["image"]).shape == empty.shape
    with pytest.raises(InputError, match=r"r\.nii\.gz: has shape \(9, 9, 9\)"):
        written(TURNED, reference=np.ones((9, 9, 9), np.uint8))


@pytest.mark.parametrize("table", sorted(LABELS.glob("*.tsv")), ids=lambda path: path.stem)
def test_colours_are_told_apart_and_go_with_those_of_the_other_side(table):
    protocol = Protocol.read(table)
    partners = protocol.partners("coronal")
    pairs = [(index, partner) for index, partner in enumerate(partners) if partner > index]
    safe = colour_blind_colors(protocol).astype(int)
    assert np.abs(np.diff(safe[1:], axis=0)).sum(axis=1).min() > 60  # neighbours
    assert len({tuple(color) for color in safe}) == len(safe)
    for index, partner in pairs:
        assert np.allclose(safe[partner], 0.68 * safe[index], atol=1)
    for outlines in outline_colors(protocol):
        assert (outlines[1:].astype(int) @ (0.299, 0.587, 0.114)).min() >= 128  # bright
        assert all((outlines[index] == outlines[partner]).all() for index, partner in pairs)
