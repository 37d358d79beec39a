"""Label protocols: what they contain, and what they refuse."""

import re

import numpy as np
import pytest

from helpers import LABELS
from quicknat.errors import InputError
from quicknat.images.labels import Protocol, freesurfer_structures, stored_values
from quicknat.package_data import DATA, LABEL_TABLES
from quicknat.segmentation.outputs import label_table
from quicknat.synthesis.tissues import tissue_table, to_tissues


@pytest.mark.parametrize(
    ("name", "classes", "sagittal"),
    [("quicknat28", 28, 16), ("quicknat33", 33, 19), ("tissues4", 4, 4), ("seed4", 4, 4)],
)
def test_each_protocol_has_the_published_number_of_classes(name, classes, sagittal):
    protocol = Protocol.read(LABELS / f"{name}.tsv")
    assert protocol.n_classes("coronal") == protocol.n_classes("axial") == classes
    assert protocol.n_classes("sagittal") == sagittal
    assert len(protocol.class_names("sagittal")) == sagittal


@pytest.mark.parametrize(
    ("convention", "numbers", "names"),
    [
        ("freesurfer", (17, 53), ["Left hippocampus", "Right hippocampus"]),
        ("neuromorphometrics", (48, 47), ["Left hippocampus", "Right hippocampus"]),
        ("neuromorphometrics", (101, 207), ["Left cerebral cortex"] * 2),  # odd
        ("neuromorphometrics", (100, 206), ["Right cerebral cortex"] * 2),  # even
        # vermis, and what is not listed
        ("neuromorphometrics", (71, 72, 73, 63, 45), ["Background"] * 4),
        ("quicknat28", range(28), []),  # class indices already
    ],
)
def test_numbers_of_a_convention_become_classes(protocol, convention, numbers, names):
    mapped = protocol.remap(np.array(numbers), convention, "x").tolist()
    assert [protocol.names[i] for i in mapped][: len(names)] == names
    assert names or mapped == list(numbers)


def test_sagittal_classes_merge_the_two_sides(protocol):
    left, right = protocol.names.index("Left thalamus"), protocol.names.index("Right thalamus")
    assert protocol.sagittal[left] == protocol.sagittal[right]
    assert "Thalamus" in protocol.class_names("sagittal")


def test_reference_remapping_of_the_authors_is_reproduced(golden):
    golden = np.load(golden / "aux.npz")
    protocol = Protocol.read(LABELS / "quicknat33.tsv")
    values = golden["remap_in"]
    ours = protocol.remap(values, "neuromorphometrics", "golden")
    np.testing.assert_array_equal(ours, golden["remap_neo"])
    # the thalamus had these numbers in old FreeSurfer, which the authors' release did not know
    ids = np.isin(values, [9, 48]) | (values > 99)
    ours = protocol.remap(np.where(ids, 0, values), "freesurfer", "golden")
    np.testing.assert_array_equal(ours, np.where(ids, 0, golden["remap_fs"]))


# Numbers of an aseg, from FreeSurfer's ASegStatsLUT.txt (github.com/freesurfer/freesurfer,
# distribution/); the thalamus is called -Proper before version 7
ASEG = """
2 Left-Cerebral-White-Matter  3 Left-Cerebral-Cortex  4 Left-Lateral-Ventricle  5 Left-Inf-Lat-Vent
7 Left-Cerebellum-White-Matter  8 Left-Cerebellum-Cortex  10 Left-Thalamus  11 Left-Caudate
12 Left-Putamen  13 Left-Pallidum  14 3rd-Ventricle  15 4th-Ventricle  16 Brain-Stem
17 Left-Hippocampus  18 Left-Amygdala  24 CSF  26 Left-Accumbens-area  28 Left-VentralDC
30 Left-vessel  31 Left-choroid-plexus  41 Right-Cerebral-White-Matter  42 Right-Cerebral-Cortex
43 Right-Lateral-Ventricle  44 Right-Inf-Lat-Vent  46 Right-Cerebellum-White-Matter
47 Right-Cerebellum-Cortex  49 Right-Thalamus  50 Right-Caudate  51 Right-Putamen
52 Right-Pallidum  53 Right-Hippocampus  54 Right-Amygdala  58 Right-Accumbens-area
60 Right-VentralDC  62 Right-vessel  63 Right-choroid-plexus  72 5th-Ventricle
77 WM-hypointensities  78 Left-WM-hypointensities  79 Right-WM-hypointensities
80 non-WM-hypointensities  81 Left-non-WM-hypointensities  82 Right-non-WM-hypointensities
85 Optic-Chiasm  251 CC_Posterior  252 CC_Mid_Posterior  253 CC_Central  254 CC_Mid_Anterior
255 CC_Anterior
"""
ASEG = {name: int(number) for number, name in re.findall(r"(\d+) (\S+)", ASEG)}
OTHER_WORDS = {
    "Inf-Lat-Vent": "inferior lateral ventricle",
    "Accumbens-area": "accumbens",
    "VentralDC": "ventral DC",
}


def own_name(freesurfer):
    """Our name of a structure by FreeSurfer's."""
    side, _, rest = freesurfer.partition("-")
    if side in ("Left", "Right"):
        return f"{side} {OTHER_WORDS.get(rest, rest.lower().replace('-', ' '))}"
    kept = freesurfer if freesurfer == "CSF" else freesurfer.replace("-", " ").lower()
    return kept[0].upper() + kept[1:]


@pytest.mark.case(80)
@pytest.mark.parametrize("name", LABEL_TABLES)
def test_freesurfer_numbers_are_those_of_its_own_table(name):
    protocol = Protocol.read(LABEL_TABLES[name])
    aseg = {number: own_name(label).lower() for label, number in ASEG.items()}
    aseg |= {0: "background", 1: "left cerebral exterior"}
    own = [structure.replace("-", " ").lower() for structure in protocol.names]
    written = freesurfer_structures(protocol)["freesurfer_id"].dropna().to_dict()
    if len(written) == len(own):
        assert list(written.values()) == stored_values(protocol, "freesurfer")
    for index, number in written.items():
        assert number >= 1000 or aseg[number] == own[index]  # parcels of the cortex are above
    known = np.array([*aseg, 10, 9, 49, 48])  # those of the thalamus now and before
    *read, left, old_left, right, old_right = protocol.remap(known, "freesurfer", "aseg.mgz")
    assert left == old_left and right == old_right
    for structure, index in zip(aseg.values(), read, strict=True):
        merged = index not in written
        assert merged or index == (own.index(structure) if structure in own else 0)


@pytest.mark.case(80)
@pytest.mark.parametrize("folder", ["small", "1mm"])
def test_bundled_models_write_numbers_of_freesurfer(folder):
    protocol = Protocol.read(DATA / f"weights/{folder}/labels.tsv")
    written = label_table(protocol).set_index("name")["freesurfer_id"]
    assert (written["Left thalamus"], written["Right thalamus"]) == (10, 49)


@pytest.mark.case(80)
def test_tissues_of_an_aseg_are_those_that_freesurfer_names(protocol):
    tissues = tissue_table()["name"]
    found = to_tissues(np.array(list(ASEG.values())), "freesurfer", protocol, "aseg.mgz")
    for label, tissue in zip(ASEG, tissues[found], strict=True):
        name = re.sub("^(left|right) ", "", own_name(label).lower())
        white = name.startswith("cc_") or name == "cerebral white matter"
        lesion = name.endswith("hypointensities")
        expected = {"4th ventricle", "3rd ventricle"} & {name} or {
            "Cerebral white matter" if white else "Lesion" if lesion else
            "CSF" if name in ("csf", "5th ventricle") else name
        }  # fmt: skip
        assert tissue.lower() in {word.lower() for word in expected}, label


def test_unknown_convention_is_refused_with_the_allowed_ones(protocol):
    with pytest.raises(InputError, match="allowed: freesurfer, neuromorphometrics, quicknat28"):
        protocol.remap(np.array([0, 1]), "talairach", "x")
