"""Label maps as tissues: no number without one, sides alike, a head around a labelled brain."""

import json

import numpy as np
import pytest
from scipy import ndimage

from helpers import LABELS, write_conformed
from in_process import quicknat
from quicknat.errors import InputError
from quicknat.images.labels import CONVENTIONS, Protocol, parse_ids
from quicknat.images.slices import VIEWS
from quicknat.images.volumes import Volume
from quicknat.synthesis.tissues import conformed_tissues, split_outside, tissue_table, to_tissues

SHIPPED = [Protocol.read(path) for path in sorted(LABELS.glob("*.tsv"))]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("protocol", SHIPPED, ids=lambda protocol: protocol.name)
def test_every_number_that_a_shipped_protocol_knows_is_a_tissue(protocol, convention):
    known = np.concatenate([parse_ids(text) for text in protocol.table[convention]]).astype(int)
    found = to_tissues(known, convention, protocol, "x")
    assert found.max() < len(tissue_table()) and found.dtype == np.uint8


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_structures_are_tissues_of_their_own_and_both_sides_the_same(convention):
    protocol = next(protocol for protocol in SHIPPED if protocol.name == "quicknat33")
    tissues = [
        set(to_tissues(np.array(parse_ids(text)), convention, protocol, "x").tolist())
        for text in protocol.table[convention]
    ]
    for index, partner in list(enumerate(protocol.partners("coronal").tolist()))[1:]:
        own = {index, partner} if partner > 0 else {index}
        assert 0 not in tissues[index] and all(tissues[k] == tissues[index] for k in own)
        others = [tissues[k] for k in range(1, len(tissues)) if k not in own]
        assert not any(tissues[index] & other for other in others), protocol.names[index]


def test_no_number_is_two_tissues():
    for convention in CONVENTIONS:
        known = [n for text in tissue_table()[convention] for n in parse_ids(text)]
        assert len(known) == len(set(known))


def test_map_in_the_protocols_own_classes_is_taken_too(protocol):
    classes = np.arange(len(protocol.names))
    tissues = to_tissues(classes, "quicknat28", protocol, "x")
    assert tissues[0] == 0 and len(set(tissues.tolist())) == protocol.n_classes("sagittal")


def test_number_without_a_tissue_is_refused_by_name(protocol):
    with pytest.raises(InputError, match=r"map.nii: label value 9001 \(freesurfer\)"):
        to_tissues(np.array([0, 2, 9001]), "freesurfer", protocol, "map.nii")


def test_skull_and_skin_of_the_image_become_tissues_and_the_brain_and_air_stay(demo_dseg, protocol):
    tissues = to_tissues(demo_dseg.data, "freesurfer", protocol, "x")
    brain = tissues > 0
    near, far = (ndimage.binary_dilation(brain, iterations=n) for n in (3, 8))
    image = np.where(brain, 120, 0).astype(np.uint8)
    image[near & ~brain] = 50  # fluid
    image[far & ~near] = 110  # muscle
    image[20:40][(far & ~near)[20:40]] = 240  # fat
    found = split_outside(tissues, image)
    assert np.array_equal(found[brain], tissues[brain])
    assert not found[~ndimage.binary_dilation(far)].any()
    regions = set(tissue_table()["region"][np.unique(found[(found > 0) & ~brain])])
    assert regions == {"outside"} and len(np.unique(found[~brain & far])) == 4


def test_map_without_an_image_is_conformed_by_itself(demo_dseg, protocol):
    tissues, classes, head = conformed_tissues(demo_dseg, "freesurfer", protocol, 4.0, 64)
    assert tissues.shape == classes.shape == head.shape == (64, 64, 64)
    voxels = (demo_dseg.data > 0).sum() / 8  # of 4 mm instead of 2
    assert (tissues > 0).sum() == pytest.approx(voxels, rel=0.05)
    assert not classes[tissues == 0].any() and set(np.unique(head)) == {0, 255}


def test_map_of_a_scan_lies_on_the_scans_grid(demo_dseg, head_file, protocol, tmp_path):
    path = tmp_path / "a_T1w.nii.gz"
    image, _ = write_conformed(head_file, path, 4.0, 64)
    tissues, classes, shown = conformed_tissues(demo_dseg, "freesurfer", protocol, 1, 256, path)
    assert np.array_equal(shown, image) and tissues.shape == (64, 64, 64)
    outside = (tissue_table()["region"] == "outside").to_numpy()[tissues]
    assert outside.sum() > 1000 and not classes[outside].any()
    shift = np.eye(4)
    shift[:3, 3] = 1000
    away = Volume(demo_dseg.data, shift @ demo_dseg.affine, path)
    with pytest.raises(InputError, match="does not overlap"):
        conformed_tissues(away, "freesurfer", protocol, 1, 256, path)


def test_command_cuts_a_bare_label_map_into_three_views(dseg_file, tmp_path):
    done = quicknat(
        "slice-tissues", dseg_file, "--protocol", "quicknat28", "--folder", tmp_path / "s",
        "--name", "a_tissues", "--spacing", 4, "--size", 64, "--slice-size", 48,
    )  # fmt: skip
    assert done.status == 0, str(done)
    for view in VIEWS:
        stack = np.load(tmp_path / "s" / view / "a_tissues.npy")
        assert stack.shape[1:] == (2, 48, 48) and len(stack) > 10
        assert stack[:, 0].max() < len(tissue_table()) and np.all(
            stack[:, 1][stack[:, 0] == 0] == 0
        )
    assert json.loads((tmp_path / "s/a_tissues.json").read_text())["labelled_voxels_outside"] == 0
