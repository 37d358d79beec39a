"""Find the scans of a data set on disk or in an archive, and list what is left out and why."""

from __future__ import annotations

import logging
import os
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from quicknat.cohort.layouts import (
    ANALYZE,
    IN_ARCHIVES,
    LAYOUTS,
    SURFER_IMAGES,
    Found,
    with_freesurfer,
)
from quicknat.cohort.naming import default_name, digest
from quicknat.cohort.sheet import LOCAL, Scan
from quicknat.errors import InputError
from quicknat.images.recognition import require_not_dicom, why_absent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """A data set's layout, its usable scans, and reasons why other paths get no row."""

    layout: str
    scans: list[Scan]
    left_out: dict[str, str]


def list_paths(root: Path, below: str = "") -> list[str]:
    """Return the sorted paths in a folder or tar archive; folders end with ``/``.

    Names that begin with a dot are skipped (``.git``, macOS files). Links to folders are followed,
    except in circles. In a folder, only its folders whose names begin with `below` are searched.

    Raises:
        InputError: neither a folder nor a readable archive.
    """
    if not root.exists():
        raise InputError(root, "no such folder or archive", "check the path")
    if root.is_dir():
        names = list(_walk(root, below))
    else:
        try:
            with tarfile.open(root) as archive:
                names = [member.name + "/" * member.isdir() for member in archive]
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            problem = f"cannot be listed as a tar archive ({error})"
            raise InputError(root, problem, "give a folder or a .tar(.gz)") from error
    names = [name.removeprefix("./") for name in names]
    return sorted(name for name in names if not any(p.startswith(".") for p in name.split("/")))


def _walk(root: Path, start: str) -> Iterator[str]:
    """Yield files and folders below `root`, relative to it; warn about unreadable ones."""
    unreadable = partial(log.warning, "left out: %s")
    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        here = Path(folder)
        folders[:] = [n for n in folders if not n.startswith(".") and not _in_circle(here / n)]
        if here == root:
            folders[:] = [name for name in folders if name.startswith(start)]
        below = here.relative_to(root)
        yield from ((below / name).as_posix() for name in files)
        yield from ((below / name).as_posix() + "/" for name in folders)


def _in_circle(folder: Path) -> bool:
    """Return whether a folder is a link to one of its parents, followed through links."""
    return folder.is_symlink() and any(
        above.resolve().is_relative_to(folder.resolve()) for above in folder.parents
    )


def survey(
    root: str | Path, layout: str = "", source: str = LOCAL, labels_from: str | Path | None = None
) -> Survey:
    """Find the scans of a data set, and what is left out and why.

    Args:
        root: a folder, or a tar archive of OASIS-1, IXI or FreeSurfer's results.
        layout: a name in :data:`LAYOUTS`; default: the first that finds a scan.
        source: the archive's name in the sources table.
        labels_from: SUBJECTS_DIR with FreeSurfer or FastSurfer results of the same scans, whose
            images and labels are used instead; scans without results get no labels.

    Returns:
        Scans sorted by name. Their paths are absolute, or members of the archive.

    Raises:
        InputError: no scan was found, or an archive has no source or a folder has one.
    """
    root = Path(root)
    paths = list_paths(root)
    archive = root.is_file()
    if archive and source == LOCAL:
        raise InputError(root, "is an archive", "give its name in the sources table with --source")
    if not archive and source != LOCAL:
        raise InputError(root, "is a folder, not an archive", "leave out --source")
    names = [layout] if layout else list(IN_ARCHIVES if archive else LAYOUTS)
    if archive and layout not in ("", *IN_ARCHIVES):
        raise InputError(root, f"is an archive; '{layout}' needs a folder", "unpack it")
    name, (scans, left_out) = _first(names, paths)
    if not scans:
        require_not_dicom(root)
    if not scans and not left_out:
        fix = f"write the sheet by hand (docs/howto/own-data.md); layouts tried: {', '.join(names)}"
        raise InputError(root, "holds no scan of a known layout", fix)
    scans, unusable = _usable(_distinct(scans), root, source)
    left_out |= unusable
    if labels_from:
        scans, unused = _with_results(scans, Path(labels_from))
        left_out |= unused
    return Survey(name, scans, dict(sorted(left_out.items())))


def _with_results(scans: Sequence[Scan], subjects_dir: Path) -> Found:
    """Return scans with FreeSurfer's images and labels alone, and unused results."""
    _, (results, left_out) = _first(["fastsurfer", "freesurfer"], list_paths(subjects_dir))
    results, unusable = _usable(results, subjects_dir, LOCAL)
    if not any(scan.labels for scan in results):
        raise InputError(subjects_dir, "holds no FreeSurfer results", "name a SUBJECTS_DIR")
    bare = [
        replace(scan, labels="", label_convention="",
                split="segment" if scan.split == "auto" else scan.split)
        for scan in scans
    ]  # fmt: skip
    found, unused = with_freesurfer(bare, results)
    if not any(scan.labels for scan in found):
        problem = f"has no results for any of these scans, only for {results[0].id} and others"
        fix = f"name its folders like the scans, e.g. {found[0].id}" if found else "check it"
        raise InputError(subjects_dir, problem, fix)
    return found, left_out | unusable | unused


def _first(names: Sequence[str], paths: list[str]) -> tuple[str, Found]:
    """Return the first layout that finds a scan, or else one that finds files to leave out."""
    findings: dict[str, Found] = {}
    for name in names:
        if name == "folders" and any(left_out for _, left_out in findings.values()):
            continue  # a specific layout matched, but none of its files can be used
        findings[name] = LAYOUTS[name](paths)
        if findings[name][0]:
            return name, findings[name]
    name = next((name for name, found in findings.items() if found[1]), names[0])
    return name, findings[name]


def _usable(scans: Sequence[Scan], root: Path, source: str) -> Found:
    """Return scans with absolute paths or a source, without those that no sheet can list."""
    kept, left_out = [], {}
    for scan in scans:
        files = [scan.image, scan.labels] if scan.labels else [scan.image]
        if source == LOCAL:
            files = [str(root.resolve() / file) for file in files]
            if absent := [file for file in files if not Path(file).exists()]:
                left_out[absent[0]] = "; ".join(why_absent(Path(absent[0])))
                continue
        if re.search(r"[\t\r\n{}\ud800-\udfff]|^\s|\s$", "".join(files)):
            problem = "its path has a tab, brace, leading or trailing space, or non-UTF-8 bytes"
            left_out[scan.image] = problem
        else:
            image, labels = (*files, "")[:2]
            kept.append(replace(scan, image=image, labels=labels, source=source))
    return kept, left_out


def _distinct(scans: Sequence[Scan]) -> list[Scan]:
    """Sort scans by name; those of one name get a digest of their paths, and one participant.

    Their paths are relative to the data set.
    """
    named: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        named[scan.id.casefold()].append(scan)  # some file systems ignore case
    found = []
    for group in named.values():
        if len(group) > 1:
            paths = " and ".join(scan.image for scan in group)
            what = "share the name %s: taken as scans of one participant, distinguished by a digest"
            log.warning(f"%s {what}", paths, group[0].id)
            group = [replace(scan, subject=scan.subject + digest(scan.image)) for scan in group]
        found += group
    return sorted(found, key=lambda scan: scan.id)


def _surfer_paths(root: Path) -> list[str]:
    """Return the paths in a SUBJECTS_DIR that name scans, relative to it; [] if it is none."""
    images = list(root.glob("*/mri/*.mgz"))
    if not any(image.name in SURFER_IMAGES for image in images):
        return []
    found = [path.relative_to(root).as_posix() for path in (*images, *root.glob("*/base-tps*"))]
    return sorted([*found, *(f"{path.name}/" for path in root.iterdir() if path.is_dir())])


def find_images(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return names and paths of T1w scans: files, and those of folders.

    A folder may be a BIDS data set, a SUBJECTS_DIR of FreeSurfer or FastSurfer, or hold the scans
    directly. What else is in it (label maps, other contrasts) is logged. Derivatives are not
    searched.

    Raises:
        InputError: a folder without scans, or no scan at all.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.is_dir():
            if path.name.startswith("._"):
                log.warning("left out: %s: is a macOS metadata file", path)
            else:
                found.append((default_name(path), path))
            continue
        layout, (scans, left_out) = _first(["bids", "plain"], list_paths(path, below="sub-"))
        if (layout, bool(scans)) != ("bids", True) and (surfer := _surfer_paths(path)):
            subjects, others = LAYOUTS["freesurfer"](surfer)
            scans, left_out = [*scans, *subjects], left_out | others
        named = [(scan.id, path / scan.image) for scan in _distinct(scans)]
        for other, reason in left_out.items():
            if reason == ANALYZE:  # in a sheet it needs an orientation
                named.append((default_name(path / other), path / other))
            else:
                log.info("left out: %s: %s", path / other, reason)
        if not named:
            require_not_dicom(path)
            fix = "name the files, or the BIDS data set and --participant-label"
            raise InputError(path, "holds no T1w scan itself", fix)
        found += named
    if not found:
        raise InputError(paths[0], "is not a scan", "name T1w scans, or folders of them")
    return found
