"""Find T1w scans and their label maps in data sets as people have them.

Only names are looked at: no image is opened, and archives are listed without being unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quicknat.cohort.freesurfer_layouts import fastsurfer, freesurfer, with_freesurfer
from quicknat.cohort.naming import TAKEN, Finding, LeftOut, scan_named
from quicknat.cohort.sheet import Scan

# OASIS-1 is Analyze, whose header does not say it. Washington University's tools wrote the T88_111
# scans transverse and unflipped: the first voxel is the right, posterior, inferior one
OASIS_ORIENTATION = "LAS"
OASIS_SESSION = re.compile(r"((?:.*/)?OAS1_\d{4}_MR\d+)/", re.IGNORECASE)
OASIS_IMAGE = re.compile(r".*/PROCESSED/MPRAGE/T88_111/[^/]*_masked_gfc\.img", re.IGNORECASE)
OASIS_LABELS = re.compile(r".*/FSL_SEG/[^/]*_fseg\.img", re.IGNORECASE)
IXI_NAME = re.compile(r"IXI\d{3}-.*\.nii(\.gz)?", re.IGNORECASE)
IXI_T1 = re.compile(r"IXI\d{3}-[A-Za-z]+-\d+-T1\.nii(\.gz)?", re.IGNORECASE)
T1 = re.compile(r"(?<![a-z0-9])t1(?![0-9])|mprage", re.IGNORECASE)
OTHER_CONTRAST = re.compile(r"(?<![a-z0-9])(t2|t2w|flair|bold|dwi|pd|swi|asl)(?![a-z0-9])", re.I)
PART_OF_A_DATA_SET = re.compile("mri|anat|func|dwi|derivatives|(images|labels)T[rs]", re.IGNORECASE)
LABELS = "dseg|seg|labels|aseg|synthseg"  # ends of the names of label maps
BIDS_FOLDER = re.compile(r"(sub-[A-Za-z0-9]+/(?:ses-[A-Za-z0-9]+/)?)")
BIDS_T1W = re.compile(r"anat/(sub-[^/]*)_T1w\.nii(?:\.gz)?")
BIDS_DSEG = re.compile(
    r"(?:derivatives/[^/]+/)?sub-[^/]+/(?:ses-[^/]+/)?anat/(sub-[^/]*)_dseg\.nii(?:\.gz)?"
)


def oasis1(paths: Sequence[str]) -> Finding:
    """OASIS-1 discs: the brain in atlas space (T88_111) and FSL's tissue classes of it.

    A second visit (``_MR2``) is a session of the same person.
    """
    scans, left_out = [], []
    sessions: dict[str, list[str]] = {}
    headers = {path.lower() for path in paths if path.lower().endswith(".hdr")}
    for path in paths:
        if found := OASIS_SESSION.match(path):
            sessions.setdefault(found[1], []).append(path)
    for folder, inside in sessions.items():
        whole = {}
        for pattern in (OASIS_IMAGE, OASIS_LABELS):
            files = [path for path in inside if pattern.fullmatch(path)]
            pairs = [path for path in files if path[:-4].lower() + ".hdr" in headers]
            left_out += [LeftOut(path, "its .hdr is absent") for path in files if path not in pairs]
            left_out += [LeftOut(path, TAKEN) for path in pairs[1:]]
            whole[pattern] = pairs[0] if pairs else ""
        if not whole[OASIS_IMAGE]:
            left_out.append(LeftOut(folder, "has no PROCESSED/MPRAGE/T88_111/*_masked_gfc.img"))
            continue
        scan = scan_named(Path(folder).name, whole[OASIS_IMAGE], whole[OASIS_LABELS], "tissues4")
        scans.append(replace(scan, orientation=OASIS_ORIENTATION))
    return scans, left_out


def ixi(paths: Sequence[str]) -> Finding:
    """IXI: one T1w scan per subject, no labels, so for pre-training."""
    scans: dict[tuple[str, str], Scan] = {}
    left_out = []
    for path in paths:
        name = Path(path).name
        if not IXI_NAME.fullmatch(name):
            continue
        if not IXI_T1.fullmatch(name):
            left_out.append(LeftOut(path, "is not named IXI###-Site-####-T1"))
            continue
        scan = scan_named(name, path, use="pretrain")
        if scans.setdefault((scan.subject, scan.session), scan) is not scan:
            left_out.append(LeftOut(path, TAKEN))
    return list(scans.values()), left_out


def _entities(stem: str) -> frozenset[str]:
    """What must agree between the BIDS names of a scan and of a label map on its grid."""
    ignored = ("desc-", "atlas-", "seg-", "label-", "space-T1w", "space-orig")
    return frozenset(part for part in stem.split("_") if not part.startswith(ignored))


def bids(paths: Sequence[str]) -> Finding:
    """A BIDS data set: the first T1w scan of each session.

    Labels are the ``_dseg`` of the same entities, in the data set or its derivatives, on the scan's
    own grid (no ``space``, or T1w or orig); else those of FreeSurfer in the derivatives (see
    :func:`with_freesurfer`). fMRIPrep's ``desc-aseg`` comes first; its numbering is known.
    """
    visits: dict[str, list[tuple[str, str]]] = {}
    maps: dict[frozenset[str], list[str]] = {}
    for path in paths:
        if folder := BIDS_FOLDER.match(path):
            scan = BIDS_T1W.fullmatch(path, folder.end())
            visits.setdefault(folder[1], []).extend([(path, scan[1])] if scan else [])
        if label := BIDS_DSEG.fullmatch(path):
            maps.setdefault(_entities(label[1]), []).append(path)
    # a subject's folder is no visit if its sessions are
    visits = {key: found for key, found in visits.items() if found or not _has_session(key, visits)}
    scans, left_out = [], []
    for visit, found in visits.items():
        if not found:
            left_out.append(LeftOut(visit, "has no anat/*_T1w.nii or .nii.gz"))
            continue
        left_out += [LeftOut(path, TAKEN) for path, _ in found[1:]]
        image, stem = found[0]
        fitting = maps.pop(_entities(stem), [""])
        fitting.sort(key=lambda path: "_desc-aseg_" not in path)
        left_out += [LeftOut(path, TAKEN) for path in fitting[1:]]
        known = "freesurfer" if re.search(r"_desc-aseg_|_desc-aparcaseg_", fitting[0]) else ""
        scans.append(scan_named(stem, image, fitting[0], known))
    unfit = "has not the entities and space of a scan that was taken"
    left_out += [LeftOut(path, unfit) for found in maps.values() for path in found]
    surfer, _ = freesurfer([path for path in paths if path.startswith("derivatives/")])
    with_labels, unused = with_freesurfer(scans, surfer)
    left_out += unused
    return [a if a.labels else b for a, b in zip(scans, with_labels, strict=True)], left_out


def _has_session(folder: str, folders: dict) -> bool:
    return any(other.startswith(folder + "ses-") for other in folders)


def _beside(paths: Sequence[str], kinds: str, protocol: str = "") -> Finding:
    """Scans right in a folder; label maps have the scan's name and one of `kinds` at its end."""
    images: dict[str, list[str]] = {}
    maps: dict[str, list[str]] = {}
    left_out = []
    for path in paths:
        file = re.fullmatch(
            rf"([^/]+?)(?:_({kinds}))?\.(?:nii|nii\.gz|mg[zh])", path, re.IGNORECASE
        )
        if file:
            target = maps if file[2] else images
            target.setdefault(re.sub(r"_T1w?$", "", file[1], flags=re.I), []).append(path)
        elif re.fullmatch(r"[^/]+\.img(\.gz)?", path, re.IGNORECASE):
            left_out.append(
                LeftOut(path, "is Analyze; write its row, with 'orientation', yourself")
            )
    scans = []
    for name, found in images.items():
        label, *others = maps.pop(name, [""])
        left_out += [LeftOut(path, TAKEN) for path in others]
        # several images give several rows, whose equal names are refused
        scans += [scan_named(name, path, label, protocol) for path in found]
    orphans = [path for found in maps.values() for path in found]
    return scans, left_out + [LeftOut(path, "is a label map without its scan") for path in orphans]


def synthseg(paths: Sequence[str]) -> Finding:
    """A folder of X.nii.gz or X_resampled.nii.gz with X_synthseg.nii.gz.

    SynthSeg's maps lie on a 1 mm grid: where X_resampled is there, it is taken in place of X.
    """
    if not any("_synthseg.nii" in path for path in paths):
        return [], []
    resampled = {path.replace("_resampled.nii", ".nii"): path for path in paths
                 if "_resampled.nii" in path}  # fmt: skip
    posteriors = [path for path in paths if "_posteriors.nii" in path]
    taken = {*resampled, *resampled.values(), *posteriors}
    others = [path for path in paths if path not in taken]
    scans, left_out = _beside([*others, *resampled], "synthseg", "freesurfer")
    left_out += [LeftOut(path, "holds probabilities") for path in posteriors]
    return [replace(scan, image=resampled.get(scan.image, scan.image)) for scan in scans], left_out


def plain(paths: Sequence[str]) -> Finding:
    """A folder of NIfTI or MGZ files; the map of X is X_dseg, X_seg, X_labels or X_aseg."""
    return _beside(paths, LABELS)


def folders(paths: Sequence[str]) -> Finding:
    """A folder for each scan, with its image and maybe a label map.

    Of several images it is the one whose name has T1 or MPRAGE in it; a single one may be called
    anything but another contrast. A label map is named as in :func:`plain`, or just so:
    ``aseg.nii.gz``.
    """
    inside: dict[str, list[str]] = {path[:-1]: [] for path in paths if re.fullmatch("[^/]+/", path)}
    for path in paths:
        if re.fullmatch(r"[^/]+/[^/]+\.(?:nii|nii\.gz|mg[zh])", path, re.IGNORECASE):
            inside.setdefault(path.partition("/")[0], []).append(path)
    scans, left_out = [], []
    for folder, files in inside.items():
        maps = [path for path in files if re.search(rf"[/_](?:{LABELS})\.", path, re.IGNORECASE)]
        images = [path for path in files if path not in maps]
        named = [path for path in images if T1.search(Path(path).name)]
        other = [path for path in images if OTHER_CONTRAST.search(Path(path).name)]
        images = named if named or other or len(images) > 1 else images
        if PART_OF_A_DATA_SET.fullmatch(folder) or not files:
            left_out.append(LeftOut(folder, "is no folder of one scan"))
        elif len(images) == 1 and len(maps) <= 1:
            scans.append(scan_named(folder, images[0], "".join(maps)))
        else:
            count = f"{len(files)} image{'s' if len(files) > 1 else ''}"
            reason = f"holds {count}; which is the T1w scan, and which its label map?"
            left_out.append(LeftOut(folder, reason))
    return scans, left_out


# in the order in which they are tried: what is particular first
LAYOUTS = {
    layout.__name__: layout
    for layout in (oasis1, ixi, bids, fastsurfer, freesurfer, synthseg, plain, folders)
}
FOLDERS = folders.__name__  # what is left when nothing particular was recognised
# OASIS-1 also comes as archives of FreeSurfer results
IN_ARCHIVES = ("oasis1", "ixi", "freesurfer")
