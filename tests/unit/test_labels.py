"""Label protocols: what they contain, and what they refuse."""

import numpy as np
import pytest

from helpers import LABELS
from quicknat.errors import InputError
from quicknat.images.labels import Protocol, stored_values
from quicknat.package_data import DATA
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


# Numbers of an aseg, left and right, from FreeSurfer's ASegStatsLUT.txt
# (github.com/freesurfer/freesurfer, distribution/), by our names
SIDED = {
    "cerebral white matter": (2, 41), "cerebral cortex": (3, 42), "lateral ventricle": (4, 43),
    "inferior lateral ventricle": (5, 44), "cerebellum white matter": (7, 46),
    "cerebellum cortex": (8, 47), "thalamus": (10, 49), "caudate": (11, 50), "putamen": (12, 51),
    "pallidum": (13, 52), "hippocampus": (17, 53), "amygdala": (18, 54), "accumbens": (26, 58),
    "ventral DC": (28, 60),
}  # fmt: skip
ASEG = {f"Left {name}": left for name, (left, _) in SIDED.items()}
ASEG |= {f"Right {name}": right for name, (_, right) in SIDED.items()}
ASEG |= {"3rd ventricle": 14, "4th ventricle": 15, "Brain stem": 16, "CSF": 24}
# vessels, choroid plexus, 5th ventricle, hypointensities, optic chiasm, corpus callosum
OTHERS = [30, 62, 31, 63, 72, *range(77, 83), 85, *range(251, 256)]


@pytest.mark.case(80)
@pytest.mark.parametrize("name", ["quicknat28", "quicknat33"])
def test_freesurfer_numbers_are_those_of_its_own_table(name):
    protocol = Protocol.read(LABELS / f"{name}.tsv")
    written = dict(zip(protocol.names, stored_values(protocol, "freesurfer"), strict=True))
    assert written.pop("Background") == 0
    assert written == {structure: ASEG[structure] for structure in written}
    read = protocol.remap(np.array([*ASEG.values(), *OTHERS]), "freesurfer", "aseg.mgz").tolist()
    for structure, index in zip(ASEG, read[: len(ASEG)], strict=True):
        assert protocol.names[index] == (structure if structure in written else "Background")
    assert not any(read[len(ASEG) :])


@pytest.mark.case(80)
@pytest.mark.parametrize("name", ["quicknat28", "quicknat33", "seed4", "tissues4"])
def test_every_number_of_an_aseg_is_known_and_old_numbers_of_the_thalamus_too(name):
    protocol = Protocol.read(LABELS / f"{name}.tsv")
    samseg = [165, 258, 259]  # skull, soft tissue and fluid
    numbers = [*ASEG.values(), *OTHERS, *samseg, 10, 9, 49, 48]
    found = protocol.remap(np.array(numbers), "freesurfer", "aseg.mgz").tolist()
    left, old_left, right, old_right = found[-4:]
    assert left == old_left and right == old_right and found[-7:-4] == [0, 0, 0]


@pytest.mark.case(80)
@pytest.mark.parametrize("folder", ["small", "1mm"])
def test_bundled_models_write_numbers_of_freesurfer(folder):
    protocol = Protocol.read(DATA / f"weights/{folder}/labels.tsv")
    written = label_table(protocol).set_index("name")["freesurfer_id"]
    assert (written["Left thalamus"], written["Right thalamus"]) == (10, 49)


@pytest.mark.parametrize(
    ("numbers", "tissue"),
    [([2, 41, 251, 255], "Cerebral white matter"), ([77, 79, 80, 82], "Lesion"), ([24, 72], "CSF"),
     ([9, 10, 48, 49], "Thalamus"), ([26, 58], "Accumbens"), ([14], "3rd ventricle")],
)  # fmt: skip
def test_tissues_of_an_aseg_are_those_that_freesurfer_names(protocol, numbers, tissue):
    found = to_tissues(np.array(numbers), "freesurfer", protocol, "aseg.mgz")
    assert set(tissue_table()["name"][found]) == {tissue}


def test_unknown_convention_is_refused_with_the_allowed_ones(protocol):
    with pytest.raises(InputError, match="allowed: freesurfer, neuromorphometrics, quicknat28"):
        protocol.remap(np.array([0, 1]), "talairach", "x")
