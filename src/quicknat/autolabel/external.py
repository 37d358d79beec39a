"""Label scans with external programs: recon-all, SynthSeg, SAMSEG.

All three use FreeSurfer's label convention. They receive the scan as a NIfTI file that this package
writes, so that an orientation stated for an Analyze file is passed on.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quicknat.cohort.naming import default_name
from quicknat.errors import InputError, Interrupted
from quicknat.images.conform import conform_labels, load_conformed
from quicknat.images.labels import Protocol
from quicknat.images.resampling import canonical
from quicknat.images.volumes import Grid, Volume, read_scan, read_volume, save_nifti

log = logging.getLogger(__name__)

SAME_SCAN = 0.9  # correlation of a scan with its bias-corrected or defaced copy is above

PROGRAMS = {"recon-all": "recon-all", "synthseg": "mri_synthseg", "samseg": "run_samseg"}
CONTAINER = "or put a script of that name on PATH that runs its container"
PROVIDE = {
    "recon-all": f"load FreeSurfer (module load freesurfer), {CONTAINER}",
    "synthseg": f"load FreeSurfer 7.3 or newer (module load freesurfer), {CONTAINER}",
    "samseg": "install envs/samseg.yaml (snakemake --sdm conda does), or the package samseg",
}
STOPPING = (signal.SIGTERM, signal.SIGHUP)  # would end this process, but not its child
PLAIN_TYPES = ("uint8", "int16", "float32")  # voxel types that every program reads


@dataclass(frozen=True)
class Settings:
    """Resources and paths of a program.

    ``subjects_dir``: recon-all's SUBJECTS_DIR, absolute. ``license``: FreeSurfer's licence file;
    empty: where FreeSurfer looks for it. ``gpu``: for SynthSeg; the others cannot use one.
    """

    subjects_dir: Path
    license: str = ""
    threads: int = 1
    gpu: bool = False


def find_license(stated: str = "") -> Path:
    """Return FreeSurfer's licence file: `stated`, ``$FS_LICENSE``, or in ``$FREESURFER_HOME``.

    Raises:
        InputError: there is none; FreeSurfer itself may notice only after hours.
    """
    home = Path(os.environ.get("FREESURFER_HOME", "$FREESURFER_HOME"))
    named = stated or os.environ.get("FS_LICENSE", "")
    paths = [Path(named)] if named else [home / "license.txt", home / ".license"]
    for path in paths:
        if path.is_file():
            return path.resolve()
    raise InputError(
        paths[0],
        "FreeSurfer's licence file is missing",
        "set auto_labels.license, --license or FS_LICENSE"
        " (free of charge: surfer.nmr.mgh.harvard.edu/registration.html)",
    )


def _run(command: list[str], environment: dict[str, str], messages: str, name: str) -> None:
    """Run a program on the scan `name` and copy its output to stderr; a signal kills it.

    Raises:
        InputError: it failed; `messages` says where its errors are.
        Interrupted: a signal of :data:`STOPPING` arrived.
    """
    process: subprocess.Popen | None = None
    signals: list[int] = []
    stopped = f"{command[0]} of {name} was stopped; run the same command again to resume"

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        if process:  # while it is being started, there is nothing yet to kill
            raise Interrupted(stopped)

    log.info("running: %s", " ".join(command))
    last = ""
    previous = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        with subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
            start_new_session=True,  # so that its child processes can be killed with it
        ) as process:  # fmt: skip
            try:
                if signals:
                    raise Interrupted(stopped)
                for line in process.stdout or ():
                    sys.stderr.write(line)
                    last = line.strip() or last
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if process.returncode:
        problem = f"exited with status {process.returncode} (last line: '{last[-200:]}')"
        raise InputError(command[0], problem, messages)


def _locks(subject: Path) -> list[Path]:
    return sorted((subject / "scripts").glob("IsRunning.*"))


def _process_lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def clear_stale_locks(subject: Path) -> None:
    """Remove the ``IsRunning`` files of a recon-all that was killed on this machine.

    Raises:
        InputError: recon-all may still be running for this subject, here or on another machine.
    """
    for lock in _locks(subject):
        text = lock.read_text("utf-8", "replace")
        stated = dict(re.findall(r"^(HOST|PROCESSID)\s+(\S+)", text, re.MULTILINE))
        host, process = stated.get("HOST", "?"), stated.get("PROCESSID", "?")
        ours = host.split(".")[0] == socket.gethostname().split(".")[0] and process.isdigit()
        if not ours or _process_lives(int(process)):
            raise InputError(
                lock,
                f"says that process {process} on {host} is running for this subject",
                "wait for it, or delete this file if that process has ended",
            )
        lock.unlink()
        log.info("removed %s: process %s has ended", lock, process)


def require_same_scan(subject: Path, image: Volume) -> None:
    """Refuse to reuse or resume recon-all's results of another scan of the same name.

    Its inputs (``mri/orig/001.mgz`` …) are compared with the image; if they were removed, any are.

    Raises:
        InputError: no input has the image's grid and, but for corrections, its voxels.
    """
    inputs, own = sorted((subject / "mri/orig").glob("[0-9]*.mgz")), canonical(image)
    for path in inputs:
        other = canonical(read_volume(path))
        if own.shape == other.shape and np.allclose(own.affine, other.affine, atol=0.05):
            alike = np.corrcoef([own.data.ravel(), other.data.ravel()], dtype=np.float32)
            if np.ravel(alike)[1] > SAME_SCAN:
                return
    if inputs:
        fix = "rename it, or list its labels: quicknat sheet --labels-from"
        raise InputError(subject, f"has recon-all results of a scan other than {image.path}", fix)


def _command(method: str, image: Path, subject: Path, settings: Settings) -> tuple[list[str], Path]:
    """Return the command to run and the label map that it writes, if need be beside the image."""
    threads = str(settings.threads)
    if method == "samseg":
        folder = image.with_name("samseg")
        command = ["run_samseg", "-i", image, "-o", folder, "--threads", threads]
        result = folder / "seg.mgz"
    elif method == "synthseg":
        result = image.with_name("synthseg.nii.gz")
        command = ["mri_synthseg", "--i", image, "--o", result, "--threads", threads]
        command += [] if settings.gpu else ["--cpu"]
    else:
        result = subject / "mri/aseg.mgz"
        # recon-all refuses -i for a subject that already has an image
        started = (subject / "mri/orig/001.mgz").exists()
        work = ["-make", "all"] if started else ["-i", image, "-all"]
        command = ["recon-all", "-s", subject.name, "-sd", subject.parent, *work]
        command += ["-threads", threads]
    return [str(part) for part in command], result


def label_externally(method: str, image: Volume, name: str, settings: Settings) -> Volume:
    """Label a scan with one of the :data:`PROGRAMS`.

    Args:
        method: ``recon-all``, ``synthseg`` or ``samseg``.
        image: the T1w scan on its own grid.
        name: ``sub-X``, also recon-all's subject; a finished subject of that name is reused, an
            unfinished one resumed.
        settings: threads, GPU, licence, folder of recon-all's subjects.

    Returns:
        Labels in FreeSurfer's convention, on the program's grid in the scan's world space.

    Raises:
        InputError: the program or its licence is missing, the program failed, or another one is
            running for the subject.
    """
    program, subject = PROGRAMS[method], settings.subjects_dir / name
    messages = "see its output above"
    if method == "recon-all":
        require_same_scan(subject, image)
        labels = subject / "mri/aseg.mgz"
        if labels.is_file() and not _locks(subject):
            log.info("%s already exists", labels)
            return read_volume(labels)
        messages = f"see {subject / 'scripts/recon-all.log'}; the next run resumes from there"
    if shutil.which(program) is None:
        raise InputError(program, "not found on PATH", PROVIDE[method])
    environment = {"OMP_NUM_THREADS": str(settings.threads), "PYTHONUNBUFFERED": "1"}
    if method != "samseg":  # that package needs no licence
        environment["FS_LICENSE"] = str(find_license(settings.license))
    if method == "recon-all":
        clear_stale_locks(subject)
        subject.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="quicknat-") as temporary:
        path = Path(temporary) / f"{name}_T1w.nii.gz"
        plain = image.data.dtype.newbyteorder("=").name in PLAIN_TYPES
        data = image.data if plain else image.data.astype(np.float32)
        save_nifti(path, data, Grid(image.shape, image.affine, image.transforms))
        command, labels = _command(method, path, subject, settings)
        try:
            _run(command, environment, messages, name)
        except BaseException:
            for lock in _locks(subject) if method == "recon-all" else ():
                lock.unlink()  # it would block the next run
            raise
        if not labels.is_file():
            raise InputError(program, f"succeeded, but did not write {labels.name}", messages)
        found = read_volume(labels)
        # copied into memory, since the temporary folder is about to be deleted
        return Volume(np.array(found.data), found.affine, Path(f"{program} of {name}"))


def label_scan(scan: Path, protocol: Protocol, method: str, settings: Settings) -> np.ndarray:
    """Return the classes of a conformed scan, uint8, by a program that runs on the original.

    Args:
        scan: the conformed scan, whose sidecar says where the original is; its name is recon-all's
            name of the subject.
        protocol: the classes.
        method, settings: as for :func:`label_externally`.

    Raises:
        InputError: see :func:`label_externally` and :meth:`Protocol.remap`; or labels and
            scan do not overlap.
    """
    _, grid, record = load_conformed(scan)
    original = read_scan(record["source"], record["orientation"])
    labels = label_externally(method, original, default_name(scan), settings)
    _, classes = conform_labels(labels, "freesurfer", protocol, grid)
    if not classes.any():
        raise InputError(
            labels.path, "does not overlap its scan in world space", "is it of another scan?"
        )
    return classes
