"""Find the scans and label maps in what FreeSurfer and FastSurfer have written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quicknat.cohort.naming import Finding, LeftOut, scan_named
from quicknat.cohort.sheet import Scan

TEMPLATES = ("fsaverage", "cvs_avg35")  # come with FreeSurfer
FREESURFER_ASEG = "aseg.mgz"
FASTSURFER_DKT = "aparc.DKTatlas+aseg.deep.mgz"


def _surfer(paths: Sequence[str], labels: str) -> Finding:
    scans, left_out, files = [], [], set(paths)
    subjects = dict.fromkeys(path.rpartition("/mri/")[0] for path in paths if "/mri/" in path)
    parents = {subject.rpartition("/")[0] for subject in subjects}
    explained = {*subjects, *parents}
    for folder in (path[:-1] for path in paths if path.endswith("/")):
        if folder.rpartition("/")[0] in parents and folder not in explained:
            left_out.append(LeftOut(folder, "has no folder 'mri'"))
    for subject in subjects:
        name = Path(subject).name
        images = [f"{subject}/mri/{image}" for image in ("orig.mgz", "T1.mgz")]
        image = next((image for image in images if image in files), "")
        reason = ""
        if name.startswith(TEMPLATES):
            reason = "comes with FreeSurfer; it is a template"
        elif ".long." in name:
            reason = "is longitudinal; its cross-sectional run is enough"
        elif f"{subject}/base-tps" in files:
            reason = "is the average of a person's time points"
        elif not image:
            reason = "has neither mri/orig.mgz nor mri/T1.mgz"
        if reason:
            left_out.append(LeftOut(subject, reason))
            continue
        aseg = f"{subject}/mri/{labels}"
        scans.append(scan_named(name, image, aseg if aseg in files else "", "freesurfer"))
    return scans, left_out


def freesurfer(paths: Sequence[str]) -> Finding:
    """A SUBJECTS_DIR of FreeSurfer: orig.mgz (else T1.mgz) and aseg.mgz.

    Callosal white matter (251–255 in aseg.mgz) belongs to no class of the protocols for QuickNAT.
    """
    return _surfer(paths, FREESURFER_ASEG)


def fastsurfer(paths: Sequence[str]) -> Finding:
    """Results of FastSurfer: orig.mgz and the network's own label map."""
    if not any(path.endswith(f"/mri/{FASTSURFER_DKT}") for path in paths):
        return [], []
    return _surfer(paths, FASTSURFER_DKT)


def with_freesurfer(scans: Sequence[Scan], results: Sequence[Scan]) -> Finding:
    """Scans with FreeSurfer's image and labels of the same subject and session in place of theirs.

    The image too, since the labels lie on its grid. A result without session is that of a subject
    who has a single one.

    Returns:
        The scans, and the results with labels that are of none of them.
    """
    labelled = {(scan.subject, scan.session): scan for scan in results if scan.labels}
    visits = Counter(scan.subject for scan in scans)
    found, used = [], set()
    for scan in scans:
        result = labelled.get((scan.subject, scan.session))
        if result is None and visits[scan.subject] == 1:
            result = labelled.get((scan.subject, ""))
        if result is not None:
            used.add(result.labels)
            scan = replace(
                scan, image=result.image, labels=result.labels, protocol=result.protocol,
                source=result.source, orientation="",
                use="auto" if scan.use == "segment" else scan.use,
            )  # fmt: skip
        found.append(scan)
    unused = [result.labels for result in labelled.values() if result.labels not in used]
    return found, [LeftOut(path, "matches no scan's subject and session") for path in unused]
