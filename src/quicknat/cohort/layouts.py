"""Find T1w scans and their label maps in data sets of common layouts.

Only file names are used: no image is opened, and archives are listed without unpacking.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quicknat.cohort.naming import file_stem, name_parts
from quicknat.cohort.sheet import Scan

TAKEN = "another file of the same scan was used"
ANALYZE = "is in Analyze format; add its row by hand, with 'orientation'"
# OASIS-1 uses Analyze, whose header has no orientation. Washington University's tools wrote the
# T88_111 scans transverse and unflipped: the first voxel is the right, posterior, inferior one
OASIS_ORIENTATION = "LAS"
OASIS_SESSION = re.compile(r"((?:.*/)?OAS1_\d{4}_MR\d+)/", re.IGNORECASE)
OASIS_IMAGE = re.compile(r".*/PROCESSED/MPRAGE/T88_111/[^/]*_masked_gfc\.img", re.IGNORECASE)
OASIS_LABELS = re.compile(r".*/FSL_SEG/[^/]*_fseg\.img", re.IGNORECASE)
IXI_NAME = re.compile(r"IXI\d{3}-.*\.nii(\.gz)?", re.IGNORECASE)
IXI_T1 = re.compile(r"IXI\d{3}-[A-Za-z]+-\d+-T1\.nii(\.gz)?", re.IGNORECASE)
T1 = re.compile(r"(?<![a-z0-9])t1(?![0-9])|mprage", re.IGNORECASE)
OTHER_CONTRAST = re.compile(r"(?<![a-z0-9])(t2w?|flair|bold|dwi|pdw?|swi|asl)(?![a-z0-9])", re.I)
MASK = re.compile(r"(?<![a-z0-9])(brain_?)?mask$", re.IGNORECASE)
# scans of a part of the head, or with a contrast agent: others of the session are preferred
PARTIAL = re.compile("hipp|subfield|partial|slab|thick|2d|tse|ce-", re.IGNORECASE)
PART_OF_A_DATA_SET = re.compile("mri|anat|func|dwi|derivatives|(images|labels)T[rs]", re.IGNORECASE)
IMAGE = r"\.(?:nii|nii\.gz|mg[zh])"
LABELS = "dseg|seg|labels?|aseg|synthseg"  # suffixes of label maps
BIDS_FOLDER = re.compile(r"(sub-[^/]+/(?:ses-[^/]+/)?)")
BIDS_IMAGE = re.compile(
    r"(derivatives/[^/]+/)?sub-[^/]+/(?:ses-[^/]+/)?anat/(sub-[^/]*)_(T1w|dseg)\.(?i:nii(?:\.gz)?)"
)
OURS = re.compile("_desc-(quicknat|coronal|axial|sagittal|auto)_")
FMRIPREP_ASEG = re.compile("_desc-(aseg|aparcaseg)_")
TEMPLATES = ("fsaverage", "cvs_avg35")  # shipped with FreeSurfer
# orig: on the grid of FreeSurfer's label maps, with the scan's own contrast. T1: the same grid,
# intensities normalised. rawavg: the native grid, all that is left of a run that failed early
SURFER_IMAGES = ("orig.mgz", "T1.mgz", "rawavg.mgz")


Found = tuple[list[Scan], dict[str, str]]  # scans; reasons why other paths get no row
Named = tuple[str, str]  # path of a file, its name up to the suffix


def scan_named(name: str, image: str, labels: str = "", convention: str = "") -> Scan:
    """Return a row for a scan: split ``auto`` if it has labels, else ``segment``."""
    subject, session, entities = name_parts(name)
    return Scan(
        subject=subject, session=session, entities=entities, participant=subject, image=image,
        labels=labels, label_convention=convention if labels else "",
        split="auto" if labels else "segment",
    )  # fmt: skip


def oasis1(paths: Sequence[str]) -> Found:
    """Find OASIS-1's skull-stripped scans in atlas space (T88_111) and FSL's tissue maps."""
    scans, sessions = [], defaultdict(list)
    left_out: dict[str, str] = {}
    headers = {path.lower() for path in paths if path.lower().endswith(".hdr")}
    for path in paths:
        if found := OASIS_SESSION.match(path):
            sessions[found[1]].append(path)
    for folder, inside in sessions.items():
        whole = {}
        for pattern in (OASIS_IMAGE, OASIS_LABELS):
            files = [path for path in inside if pattern.fullmatch(path)]
            pairs = [path for path in files if path[:-4].lower() + ".hdr" in headers]
            left_out |= {path: "lacks its .hdr" for path in files if path not in pairs}
            left_out |= dict.fromkeys(pairs[1:], TAKEN)
            whole[pattern] = pairs[0] if pairs else ""
        if not whole[OASIS_IMAGE]:
            left_out[folder] = "has no PROCESSED/MPRAGE/T88_111/*_masked_gfc.img"
            continue
        scan = scan_named(Path(folder).name, whole[OASIS_IMAGE], whole[OASIS_LABELS], "tissues4")
        scans.append(replace(scan, orientation=OASIS_ORIENTATION))
    return scans, left_out


def ixi(paths: Sequence[str]) -> Found:
    """Find IXI's T1w scans, one per subject; they have no labels, so the split is ``pretrain``."""
    scans: dict[str, Scan] = {}
    left_out = {}
    for path in (path for path in paths if IXI_NAME.fullmatch(Path(path).name)):
        name = Path(path).name
        scan = replace(scan_named(name, path), split="pretrain")
        if not IXI_T1.fullmatch(name):
            left_out[path] = "is not named IXI###-Site-####-T1"
        elif scans.setdefault(scan.id, scan) is not scan:
            left_out[path] = TAKEN
    return list(scans.values()), left_out


def _grid_entities(stem: str) -> frozenset[str]:
    """Return the entities in which a scan and a label map on its grid must agree."""
    ignored = ("desc-", "atlas-", "seg-", "label-", "space-T1w", "space-orig")
    return frozenset(part for part in stem.split("_") if not part.startswith(ignored))


def bids(paths: Sequence[str]) -> Found:
    """Find the T1w scans of a BIDS data set; each run and acquisition is a separate scan.

    Labels are the ``_dseg`` with the same entities, in the data set or its derivatives, on the
    scan's own grid (no ``space``, or T1w or orig). A derivative that has preprocessed T1w scans of
    its own (fMRIPrep) has its label maps on their grid, and gives both, as FreeSurfer's results do
    (see :func:`with_freesurfer`). fMRIPrep's ``desc-aseg`` is preferred; its convention is known.
    """
    images: dict[str, list[Named]] = defaultdict(list)  # by derivative, "" for the data set's own
    maps: dict[str, list[Named]] = defaultdict(list)
    visits: dict[str, int] = defaultdict(int)  # with their number of files
    left_out, ours = {}, {}
    for path in paths:
        folder, file = BIDS_FOLDER.match(path), BIDS_IMAGE.fullmatch(path)
        if folder:
            visits[folder[1]] += bool(file and (file[3] == "T1w" or OURS.search(path)))
        if file and file[3] == "dseg" and OURS.search(path):
            ours[path] = "was made by quicknat"
        elif file:
            (images if file[3] == "T1w" else maps)[file[1] or ""].append((path, file[2]))
    for visit, count in visits.items():
        # where a subject has session folders, its own folder is no session
        if not count and not any(other.startswith(visit + "ses-") for other in visits):
            left_out[visit] = "has no anat/*_T1w.nii or .nii.gz"
    own, own_maps, results = images.pop("", []), maps.pop("", []), []
    for derivative, found in maps.items():
        prep = "prep" in derivative.lower() or any(FMRIPREP_ASEG.search(path) for path, _ in found)
        if derivative in images:
            scans, unused = _paired(images[derivative], found)
            results += [scan for scan in scans if scan.labels]
            left_out |= unused
        elif prep:
            left_out |= {path: "lacks the desc-preproc_T1w of its grid" for path, _ in found}
        else:
            own_maps += found
    scans, unused = _paired(own, own_maps)
    surfer, others = freesurfer([path for path in paths if path.startswith("derivatives/")])
    left_out |= unused | others
    for found_results in (results, surfer):
        with_labels, unused = with_freesurfer(scans, found_results)
        scans = [a if a.labels else b for a, b in zip(scans, with_labels, strict=True)]
        left_out |= unused
    return scans, left_out | (ours if scans else {})  # results alone are no data set


def _paired(images: Sequence[Named], maps: Sequence[Named]) -> Found:
    """Return a scan for each T1w image, with its label map if any; and what is left out."""
    fitting: dict[frozenset[str], list[str]] = defaultdict(list)
    for path, stem in maps:
        fitting[_grid_entities(stem)].append(path)
    scans: dict[str, Scan] = {}
    left_out = {}
    for image, stem in images:
        if (name := scan_named(stem, image).id) in scans:
            left_out[image] = TAKEN
            continue
        found = sorted(
            fitting.pop(_grid_entities(stem), [""]), key=lambda path: "_desc-aseg_" not in path
        )
        known = "freesurfer" if FMRIPREP_ASEG.search(found[0]) else ""
        scans[name] = scan_named(stem, image, found[0], known)
        left_out |= dict.fromkeys(found[1:], TAKEN)
    unfit = "does not match the entities and space of any scan"
    left_out |= {path: unfit for others in fitting.values() for path in others}
    return list(scans.values()), left_out


def freesurfer(paths: Sequence[str], labels: str = "aseg.mgz") -> Found:
    """Find T1w scans and aseg.mgz in a FreeSurfer SUBJECTS_DIR, see :data:`SURFER_IMAGES`."""
    scans, files = [], set(paths)
    bases = {path.rpartition("/")[0] for path in paths if "/base-tps" in path}  # or .fastsurfer
    subjects = dict.fromkeys(path.rpartition("/mri/")[0] for path in paths if "/mri/" in path)
    parents = {subject.rpartition("/")[0] for subject in subjects}
    folders = {path[:-1] for path in paths if path.endswith("/")} - subjects.keys() - parents
    left_out = {
        folder: "has no folder 'mri'" for folder in folders if folder.rpartition("/")[0] in parents
    }
    for subject in subjects:
        name = Path(subject).name
        images = [f"{subject}/mri/{image}" for image in SURFER_IMAGES]
        image = next((image for image in images if image in files), "")
        aseg = f"{subject}/mri/{labels}"
        aseg = aseg if aseg in files and image != images[-1] else ""  # which is on another grid
        if name.startswith(TEMPLATES):
            left_out[subject] = "is a template shipped with FreeSurfer"
        elif ".long." in name:
            left_out[subject] = "is longitudinal; the cross-sectional run is used"
        elif subject in bases:
            left_out[subject] = "is the average of a subject's time points"
        elif not image:
            left_out[subject] = f"has none of {', '.join(SURFER_IMAGES)} in mri/"
        else:
            scans.append(scan_named(name, image, aseg, "freesurfer"))
    return scans, left_out


def fastsurfer(paths: Sequence[str]) -> Found:
    """Find T1w scans and the network's own label map in FastSurfer results."""
    labels = "aparc.DKTatlas+aseg.deep.mgz"
    found = any(path.endswith(f"/mri/{labels}") for path in paths)
    return freesurfer(paths, labels) if found else ([], {})


def with_freesurfer(scans: Sequence[Scan], results: Sequence[Scan]) -> Found:
    """Replace images and labels of scans by FreeSurfer's; also return unused results.

    The image too, since the labels are on its grid. FreeSurfer merges the runs of a session: a
    result without a run goes to the first that shows the whole head, one without a session to a
    subject with only one.
    """
    labelled: dict[str, Scan] = {}
    left_out = {}
    for scan in results:
        if scan.labels and labelled.setdefault(scan.id, scan) is not scan:
            left_out[scan.labels] = TAKEN
    names = {scan.id for scan in scans}
    several = Counter(subject for subject, _ in {(scan.subject, scan.session) for scan in scans})
    found, used = list(scans), set()
    for index in sorted(range(len(scans)), key=lambda i: bool(PARTIAL.search(scans[i].entities))):
        scan = scans[index]
        merged = [replace(scan, entities="").id]
        merged += [f"sub-{scan.subject}"] if several[scan.subject] == 1 else []
        keys = [scan.id, *(name for name in merged if name not in names)]
        result = next((labelled[key] for key in keys if key in labelled), None)
        if result is not None and result.labels not in used:
            used.add(result.labels)
            found[index] = replace(
                scan, image=result.image, labels=result.labels, source=result.source,
                label_convention=result.label_convention, orientation="",
                split="auto" if scan.split == "segment" else scan.split,
            )  # fmt: skip
    unfit = "does not match subject and session of any scan"
    unused = {scan.labels: unfit for scan in labelled.values() if scan.labels not in used}
    return found, left_out | unused


def plain(paths: Sequence[str], suffixes: str = LABELS, convention: str = "") -> Found:
    """Find NIfTI or MGZ files in a folder; X_dseg, X_seg, X_labels or X_aseg labels X.

    Of several contrasts of one scan, the T1w image is used.
    """
    images: dict[str, list[str]] = defaultdict(list)
    maps: dict[str, list[str]] = defaultdict(list)
    left_out = {}
    for path in paths:
        if file := re.fullmatch(rf"([^/]+?)(?:_({suffixes}))?{IMAGE}", path, re.IGNORECASE):
            target, name = maps if file[2] else images, file[1]
            if file[2] is None and MASK.search(name):
                left_out[path] = "is a mask, by its name"
            elif file[2] is None and re.search(rf"{OTHER_CONTRAST.pattern}$", name, re.IGNORECASE):
                left_out[path] = "is another contrast than T1w, by its name"
            else:
                target[re.sub(r"_T1w?$", "", name, flags=re.I)].append(path)
        elif re.fullmatch(r"[^/]+\.img(\.gz)?", path, re.IGNORECASE):
            left_out[path] = ANALYZE
    scans = []
    for name, found in images.items():
        label, *others = maps.pop(name, [""])
        by_stem = {file_stem(path): path for path in reversed(found)}  # x.nii and x.nii.gz
        others += [path for path in found if path not in by_stem.values()]
        left_out |= dict.fromkeys(others, TAKEN)
        # p_seg goes with p rather than p_T1
        owner = max(by_stem, key=lambda stem: (label.startswith(f"{stem}_"), len(stem)))
        scans += [
            scan_named(name, path, label if stem == owner else "", convention)
            for stem, path in by_stem.items()
        ]
    orphans = {path: "is a label map without a scan" for found in maps.values() for path in found}
    return scans, left_out | orphans


def synthseg(paths: Sequence[str]) -> Found:
    """Find X_resampled.nii.gz (on the 1 mm grid of SynthSeg's maps) or X.nii.gz, and the map."""
    if not any("_synthseg.nii" in path for path in paths):
        return [], {}
    resampled = {path.replace("_resampled.nii", ".nii"): path for path in paths
                 if "_resampled.nii" in path}  # fmt: skip
    posteriors = [path for path in paths if "_posteriors.nii" in path]
    taken = {*resampled, *resampled.values(), *posteriors}
    others = [path for path in paths if path not in taken]
    scans, left_out = plain([*others, *resampled], "synthseg", "freesurfer")
    left_out |= dict.fromkeys(posteriors, "holds probabilities")
    return [replace(scan, image=resampled.get(scan.image, scan.image)) for scan in scans], left_out


def folders(paths: Sequence[str]) -> Found:
    """Find one folder per scan, with its image and possibly a label map.

    Of several images, the one with T1 or MPRAGE in its name is used; a single image may have any
    name that does not state another contrast. A label map is named as in :func:`plain`, or without
    a prefix: ``aseg.nii.gz``.
    """
    inside: dict[str, list[str]] = {path[:-1]: [] for path in paths if re.fullmatch("[^/]+/", path)}
    for path in paths:
        if re.fullmatch(rf"[^/]+/[^/]+{IMAGE}", path, re.IGNORECASE):
            inside.setdefault(path.partition("/")[0], []).append(path)
    scans, left_out = [], {}
    for folder, files in inside.items():
        maps = [path for path in files if re.search(rf"[/_](?:{LABELS})\.", path, re.IGNORECASE)]
        images = [path for path in files if path not in maps]
        named = [path for path in images if T1.search(Path(path).name)]
        other = [path for path in images if OTHER_CONTRAST.search(Path(path).name)]
        images = named if named or other or len(images) > 1 else images
        if PART_OF_A_DATA_SET.fullmatch(folder) or not files:
            left_out[folder] = "is not a folder of one scan"
        elif len(images) == 1 and len(maps) <= 1:
            scans.append(scan_named(folder, images[0], "".join(maps)))
        else:
            count = f"holds {len(files)} image{'s' if len(files) > 1 else ''}"
            left_out[folder] = f"{count}; which is the T1w scan, and which its label map?"
    return scans, left_out


# in the order in which they are tried, most specific first
LAYOUTS = {
    layout.__name__: layout
    for layout in (oasis1, ixi, bids, fastsurfer, freesurfer, synthseg, plain, folders)
}
IN_ARCHIVES = ("oasis1", "ixi", "freesurfer")  # OASIS-1 is also distributed as FreeSurfer results
