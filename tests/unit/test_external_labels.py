"""Labels by recon-all, SynthSeg and SAMSEG: what they are asked, and what becomes of their answer.

None of the three can be had here. Stand-ins on PATH note their arguments and copy a real label map
(FreeSurfer's convention) to where the program would write its own.
"""

import json
import os
import socket
import subprocess
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from helpers import real_dseg, reoriented, save, synthetic_head, write_conformed
from quicknat.autolabel.external import PROGRAMS, Settings, label_externally, label_scan
from quicknat.errors import InputError, Interrupted
from quicknat.images.conform import conform_labels
from quicknat.images.volumes import Grid, Volume, save_nifti

# each finds its image and its result in its arguments; FOLDER is that of the stand-ins
STAND_IN = """#!/bin/sh
echo "$0 $*" > FOLDER/arguments
echo "$FS_LICENSE $OMP_NUM_THREADS" > FOLDER/environment
echo "stand-in at work"
image="" ; result=""
while [ $# -gt 0 ]; do
  case $1 in
    -i|--i) image=$2; shift;;
    --o) result=$2; shift;;
    -o) result=$2/seg.mgz; shift;;
    -s) subject=$2; shift;;
    -sd) result=$2/$subject/mri/aseg.mgz; shift;;
  esac
  shift
done
if [ -n "$image" ]; then cp "$image" FOLDER/seen.nii.gz || exit 9; fi
mkdir -p "$(dirname "$result")"
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Licence, folder of subjects, and a PATH with nothing but the system's own programs."""
    for name in ("FS_LICENSE", "FREESURFER_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "license.txt").write_text("me@example.org\n")
    return Settings(tmp_path / "subjects", str(tmp_path / "license.txt"), threads=3)


@pytest.fixture(scope="module")
def labels():
    volume = real_dseg("sub-CSI3", step=4)  # 4 mm, which spares the tests most of their time
    return Volume(volume.data.astype(np.int32), volume.affine, volume.path)


@pytest.fixture(scope="module")
def scan(labels):
    return synthetic_head(labels)


@pytest.fixture
def provide(tmp_path, labels, settings):
    """Put a stand-in for a method's program on PATH; it ends with one more line of shell."""

    def put(method, values=labels.data, last_line='cp FOLDER/answer.${result##*.} "$result"'):
        # on a grid of the program's own, as FreeSurfer's conformed one: LIA
        image = reoriented(nib.Nifti1Image(values, labels.affine), "LIA")
        nib.save(image, tmp_path / "answer.nii.gz")
        (tmp_path / "answer.nii.gz").rename(tmp_path / "answer.gz")
        nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), tmp_path / "answer.mgz")
        program = tmp_path / "bin" / PROGRAMS[method]
        program.write_text((STAND_IN + last_line + "\n").replace("FOLDER", str(tmp_path)))
        program.chmod(0o755)
        return program

    return put


def arguments(folder):
    return (folder / "arguments").read_text().split()[1:]


@pytest.fixture
def conformed(tmp_path, scan):
    """The conformed scan and its grid."""
    raw = save(tmp_path / "raw.nii.gz", scan.data.astype(np.int16), scan.affine)
    path = tmp_path / "sub-01_ses-2_space-conformed_T1w.nii.gz"
    image, grid = write_conformed(raw, path, 8.0, 32)
    affine = grid.affine.copy()
    affine[:3, 3] += 0.3  # no voxel lies midway between two of the labels'
    grid = Grid(grid.shape, affine)
    save_nifti(path, image, grid)
    return path, grid


ARGUMENTS = {
    "recon-all": "-s sub-01_ses-2 -sd SUBJECTS -i IMAGE -all -threads 3",
    "synthseg": "--i IMAGE --o RESULT --threads 3 --cpu",
    "synthseg on a GPU": "--i IMAGE --o RESULT --threads 3",
    "samseg": "-i IMAGE -o RESULT --threads 3",
}
ENDS = {"IMAGE": "/sub-01_ses-2_T1w.nii.gz", "SUBJECTS": "/subjects", "RESULT": ""}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_stand_in_gets_image_threads_licence_and_gpu_and_its_labels_become_classes(
    case, provide, conformed, settings, labels, protocol, tmp_path
):
    method = case.partition(" ")[0]
    provide(method)
    path, grid = conformed
    found = label_scan(path, protocol, method, replace(settings, gpu="GPU" in case))
    np.testing.assert_array_equal(found, conform_labels(labels, "freesurfer", protocol, grid)[1])
    assert len(np.unique(found)) > 20
    for word, expected in zip(arguments(tmp_path), ARGUMENTS[case].split(), strict=True):
        assert word.endswith(ENDS[expected]) if expected in ENDS else word == expected
    licence = [] if method == "samseg" else [settings.license]  # which needs none
    assert (tmp_path / "environment").read_text().split() == [*licence, "3"]


def test_stated_orientation_of_an_analyze_scan_reaches_the_stand_in(
    provide, conformed, settings, tmp_path, scan, protocol
):
    provide("samseg")
    flipped = scan.data[::-1].astype(">i2")  # RAS to LAS
    picture = nib.AnalyzeImage(flipped, None)
    picture.header.set_zooms((4, 4, 4))
    nib.save(picture, tmp_path / "raw.img")
    path, _ = conformed
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    record = json.loads(sidecar.read_text())
    record |= {"source": str(tmp_path / "raw.img"), "orientation": "LAS"}
    sidecar.write_text(json.dumps(record))
    label_scan(path, protocol, "samseg", settings)
    seen = nib.load(tmp_path / "seen.nii.gz")
    assert nib.aff2axcodes(seen.affine) == ("L", "A", "S") and seen.header["sform_code"] == 1
    np.testing.assert_array_equal(np.asarray(seen.dataobj), flipped)


def test_unfinished_subject_is_resumed_without_an_image(provide, scan, settings, tmp_path):
    provide("recon-all")
    started = settings.subjects_dir / "sub-01/mri/orig/001.mgz"
    started.parent.mkdir(parents=True)
    nib.save(nib.MGHImage(scan.data.astype(np.float32), scan.affine), started)
    label_externally("recon-all", scan, "sub-01", settings)
    assert arguments(tmp_path)[4:6] == ["-make", "all"] and "-i" not in arguments(tmp_path)


@pytest.mark.case(63)
@pytest.mark.parametrize("other", ["voxels", "grid"])
def test_subject_of_another_scan_is_not_reused(settings, scan, labels, other):
    """That of the scan is, without program or licence."""
    subject = settings.subjects_dir / "sub-01"
    (subject / "mri/orig").mkdir(parents=True)
    nib.save(nib.MGHImage(labels.data, labels.affine), subject / "mri/aseg.mgz")
    inputs = subject / "mri/orig/001.mgz"
    nib.save(nib.MGHImage((scan.data * 0.9 + 1).astype(np.float32), scan.affine), inputs)
    found = label_externally("recon-all", scan, "sub-01", Settings(settings.subjects_dir))
    np.testing.assert_array_equal(found.data, labels.data)  # of a scan corrected a little
    data = scan.data[::-1] if other == "voxels" else scan.data[1:]
    nib.save(nib.MGHImage(np.ascontiguousarray(data, np.float32), scan.affine), inputs)
    with pytest.raises(InputError, match="sub-01: has recon-all results of a scan other than"):
        label_externally("recon-all", scan, "sub-01", settings)


@pytest.mark.parametrize("method", PROGRAMS)
def test_missing_program_is_named_with_how_to_provide_it(method, scan, settings):
    remedy = "envs/samseg.yaml" if method == "samseg" else "module load freesurfer"
    with pytest.raises(InputError, match=f"{PROGRAMS[method]}: not found on PATH; .*{remedy}"):
        label_externally(method, scan, "sub-01", settings)


def test_licence_is_looked_for_where_freesurfer_does(
    provide, scan, settings, tmp_path, monkeypatch
):
    provide("synthseg")
    for stated, named in (("/none/license.txt", "/none/"), ("", r"\$FREESURFER_HOME/")):
        with pytest.raises(InputError, match=f"^{named}license.txt: FreeSurfer's licence"):
            label_externally("synthseg", scan, "sub-01", replace(settings, license=stated))
    assert not (tmp_path / "arguments").exists()
    (tmp_path / "mine.txt").touch()
    for variable, path, file in (
        ("FREESURFER_HOME", tmp_path, "license.txt"),
        ("FS_LICENSE", tmp_path / "mine.txt", "mine.txt"),
    ):
        monkeypatch.setenv(variable, str(path))
        label_externally("synthseg", scan, "sub-01", replace(settings, license=""))
        assert (tmp_path / "environment").read_text().split()[0] == str(tmp_path / file)


@pytest.mark.parametrize(
    ("method", "where"), [("recon-all", "sub-01/scripts/recon-all.log"), ("samseg", "above")]
)
def test_failing_stand_in_is_named_with_its_last_line_and_its_log(
    method, where, provide, scan, settings, capfd
):
    program = provide(method, last_line="echo out of memory >&2; exit 3")
    message = f"{program.name}: exited with status 3 .last line: 'out of memory'.; see .*{where}"
    with pytest.raises(InputError, match=message):
        label_externally(method, scan, "sub-01", settings)
    assert "stand-in at work\nout of memory\n" in capfd.readouterr().err
    provide(method, last_line="exit 0")
    with pytest.raises(InputError, match=f"{program.name}: succeeded, but did not write .*seg.mgz"):
        label_externally(method, scan, "sub-01", settings)


def test_labels_that_lie_beside_the_scan_are_refused(settings, conformed, labels, protocol):
    aseg = settings.subjects_dir / "sub-01_ses-2/mri/aseg.mgz"
    aseg.parent.mkdir(parents=True)
    elsewhere = labels.affine.copy()
    elsewhere[0, 3] += 600
    nib.save(nib.MGHImage(labels.data, elsewhere), aseg)
    with pytest.raises(InputError, match=r"aseg\.mgz: does not overlap its scan"):
        label_scan(conformed[0], protocol, "recon-all", settings)


@pytest.mark.case(47)
@pytest.mark.parametrize("host", ["another", "this", "this, ended"])
def test_lock_of_a_killed_recon_all_is_removed(host, provide, scan, settings):
    """One that may still be at work, here or on another machine, is named and kept."""
    provide("recon-all")
    process = subprocess.Popen(["true"])
    process.wait()
    number = process.pid if "ended" in host else os.getpid()
    name = "node17" if host == "another" else socket.gethostname()
    lock = settings.subjects_dir / "sub-01/scripts/IsRunning.lh+rh"
    lock.parent.mkdir(parents=True)
    lock.write_text(f"------\nSUBJECT sub-01\nUSER me\nHOST {name}\nPROCESSID {number} \n")
    if "ended" in host:
        label_externally("recon-all", scan, "sub-01", settings)
        assert not lock.exists()
    else:
        with pytest.raises(InputError, match=r"IsRunning\.lh\+rh: says that .* delete this"):
            label_externally("recon-all", scan, "sub-01", settings)
        assert lock.exists()


@pytest.mark.case(47)
@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_stopped_recon_all_leaves_neither_process_nor_lock(name, provide, scan, tmp_path, settings):
    lock = settings.subjects_dir / "sub-01/scripts/IsRunning.lh+rh"
    work = f'mkdir -p "{lock.parent}"; echo "HOST node17" > "{lock}"; echo $$ > FOLDER/pid'
    provide("recon-all", last_line=f"{work}; kill -{name} $PPID; sleep 99 & wait")
    with pytest.raises(Interrupted, match="run the same command again to resume"):
        label_externally("recon-all", scan, "sub-01", settings)
    assert not lock.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
