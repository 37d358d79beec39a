"""Synthetic images of label maps: seeded, aligned with their classes, like real ones in range."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch.nn.functional import grid_sample

from in_process import quicknat
from quicknat.synthesis.synthesize import (
    REFERENCE,
    Draw,
    Ranges,
    _acquisition,
    random_grid,
    synthesize,
)
from quicknat.synthesis.tissues import tissue_table

STILL = {
    "rotation": 0, "scaling": 0, "shear": 0, "shift": 0, "displacement": 0, "t1w_spread": 0,
    "texture": 0, "bias": 0, "gamma": 0, "blur": (0.1, 0.1), "coarse": 0, "noise": 0, "gain": 0,
    "stripped": 0,
}  # fmt: skip
SIDE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tissue(name):
    return tissue_table()["name"].tolist().index(name)


@pytest.fixture
def slices():
    """Tissues and classes of three slices: skin around a brain of six structures, two by two alike.

    Classes 1 to 6 are left and right of white matter, cortex and ventricle; skin has none.
    """
    tissues = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    classes = torch.zeros_like(tissues)
    tissues[:, 8:56, 8:56] = tissue("Skin")
    names = ("Cerebral white matter", "Cerebral cortex", "Lateral ventricle")
    for row, name in enumerate(names):
        for side in (0, 1):
            top, left = 14 + 12 * row, 14 + 18 * side
            where = ..., slice(top, top + 12), slice(left, left + 18)
            tissues[where], classes[where] = tissue(name), 2 * row + side + 1
    return tissues, classes


def synthesized(tissues, classes, *others):
    return synthesize(tissues[:, None], classes[:, None], *others)


def changed(**values):
    return Ranges(**STILL | values)


def test_same_seed_gives_the_same_image_and_another_another(slices):
    one, two, other = (synthesized(*slices, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])
    assert not torch.equal(one[0][0], one[0][1])  # nor are two slices of a batch alike


def test_without_spoiling_each_tissue_has_one_brightness_and_classes_stay(slices):
    image, classes = synthesized(*slices, generator(), changed(t1w=1))
    assert torch.equal(classes, slices[1])
    for number in range(len(image)):
        seen = []
        for index in slices[0][number].unique():
            values = image[number, 0][slices[0][number] == index]
            assert values.std() < 1e-5
            seen.append(values.mean().item())
        assert seen[0] == 0 and min(np.diff(sorted(seen))) > 0
        white, grey, fluid = (image[number, 0][classes[number] == k].mean() for k in (1, 3, 5))
        assert white > grey > fluid  # as in a T1w scan


def test_left_and_right_of_a_structure_are_equally_bright(slices):
    image, classes = synthesized(*slices, generator(), changed(t1w=0))
    for left in (1, 3, 5):
        for picture, labels in zip(image[:, 0], classes, strict=True):
            one, two = picture[labels == left].mean(), picture[labels == left + 1].mean()
            assert one == pytest.approx(two.item(), abs=1e-5)


def test_bent_classes_stay_on_their_tissues_and_all_survive(slices):
    bending = {key: getattr(Ranges(), key) for key in list(STILL)[:5]}
    for seed in range(5):
        image, classes = synthesized(*slices, generator(seed), changed(t1w=1, **bending))
        assert not torch.equal(classes, slices[1])
        for picture, labels in zip(image[:, 0], classes, strict=True):
            assert labels.unique().tolist() == list(range(7))
            for left in (1, 3, 5):
                assert picture[(labels == left) | (labels == left + 1)].std() < 1e-5


def test_largest_displacement_folds_nothing():
    x = torch.arange(96.0).expand(8, 1, 96, 96)
    maps = torch.cat([x + 1, x.mT + 1], dim=1)  # 0 is what comes in from beyond
    ranges = changed(displacement=Ranges().displacement)
    for seed in range(10):
        draw = Draw(8, generator(seed))
        draw.uniform = lambda *shape: torch.ones(8, *shape)
        grid = random_grid(draw, maps.shape, ranges)
        x, y = grid_sample(maps, grid, mode="nearest", align_corners=False).unbind(1)
        inside = (x > 0) & (y > 0)
        assert (x.diff(dim=2) >= 0)[inside[:, :, 1:] & inside[:, :, :-1]].all()
        assert (y.diff(dim=1) >= 0)[inside[:, 1:] & inside[:, :-1]].all()
        assert (x != maps[:, 0]).any()


def test_pictures_are_scaled_as_conformed_scans_are(slices):
    image, _ = synthesized(*slices, generator(), changed(texture=0.1, bias=0.5))
    assert image.shape == (3, 1, SIDE, SIDE) and image.dtype == torch.float32
    for picture, labels in zip(image[:, 0], slices[0], strict=True):
        bright = picture[(labels > 0) & (picture > 0.1 * picture.max())]
        assert bright.quantile(0.75) == pytest.approx(REFERENCE, rel=0.1)
    for seed in range(20):
        image, _ = synthesized(*slices, generator(seed))
        assert image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("index", [0, 1, 32])
def test_slice_of_a_single_tissue_is_synthesized_too(index):
    tissues = torch.full((2, SIDE, SIDE), index, dtype=torch.uint8)
    for seed in range(10):
        image, classes = synthesized(tissues, torch.zeros_like(tissues), generator(seed))
        assert image.isfinite().all() and not classes.any()


def test_stripping_removes_the_outside_but_nothing_that_is_to_be_found(slices):
    tissues, classes = slices
    classes = classes.clone()
    classes[:, 8:10, 8:10] = 7  # as though skin there were a structure
    image, _ = synthesized(tissues, classes, generator(), changed(stripped=1, t1w=1))
    skin = tissues == tissue("Skin")
    assert not image[:, 0][skin & (classes == 0)].any() and image[:, 0][classes == 7].all()
    kept, _ = synthesized(tissues, classes, generator(), changed(t1w=1))
    assert kept[:, 0][skin].all()


def test_fluid_around_the_brain_stays_in_about_half_of_the_stripped_slices():
    tissues = torch.full((200, 16, 16), tissue("CSF"), dtype=torch.uint8)
    image, _ = synthesized(tissues, torch.zeros_like(tissues), generator(), changed(stripped=1))
    assert 60 < (image.amax(dim=(1, 2, 3)) > 0).sum() < 140


def test_coarse_acquisition_blurs_more(slices):
    fine, coarse = (
        synthesized(*slices, generator(), changed(t1w=1, coarse=fraction))[0] for fraction in (0, 1)
    )
    assert coarse.diff(dim=2).abs().amax() < fine.diff(dim=2).abs().amax()


def test_every_tensor_is_made_where_the_slices_are(slices):
    with torch.device("meta"):  # what names no device would be there, and could not be used
        image, classes = synthesized(*slices, torch.Generator("cpu").manual_seed(0))
    assert image.device.type == classes.device.type == "cpu"


def test_command_draws_as_many_synthetic_slices_as_asked_for(dseg_file, tmp_path):
    command = [
        "synthesize", dseg_file, "--protocol", "quicknat28", "--output", tmp_path / "out.png",
        "--samples", 6, "--spacing", 4, "--size", 64, "--slice-size", 48, "--view",
    ]  # fmt: skip
    done = quicknat(*command, "sagittal")
    assert done.status == 0, str(done)
    sheet = imread(tmp_path / "out.png")[..., :3]
    assert sheet.shape == (2 * 48, 8 * 48, 3)
    assert sheet[:48].any() and not sheet[48:, 4 * 48 :].any()
    assert quicknat(*command, "oblique").status == 2


def test_acquisition_keeps_what_is_even_and_blurs_coarse_axes_more():
    fine, coarse = (
        _acquisition(SIDE, Draw(4, generator()), Ranges(coarse=share)) for share in (0, 1)
    )
    for matrix in (fine, coarse):
        torch.testing.assert_close(matrix.sum(dim=2), torch.ones(4, SIDE))
    sharp = _acquisition(SIDE, Draw(1, generator()), changed())
    torch.testing.assert_close(sharp[0], torch.eye(SIDE))
    edge = (torch.arange(SIDE) > 30).float()
    assert (coarse @ edge).diff().amax() < (fine @ edge).diff().amax()
