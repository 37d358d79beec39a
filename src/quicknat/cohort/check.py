"""Check a whole cohort before a run: the sheet, its files, and duplicate images."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from quicknat.cohort.examine import File, Finding, examine_files, explain
from quicknat.cohort.leakage import repeated_participants
from quicknat.cohort.paths import CohortPaths, find_all, find_one
from quicknat.cohort.sheet import Fault, Scan, examine_sheet, side
from quicknat.cohort.writing import PARTICIPANTS, read_participants
from quicknat.errors import InputError
from quicknat.files import columns, read_records, write_records
from quicknat.images.volumes import Grid, require_same_grid

log = logging.getLogger(__name__)

OK, WARNING, BAD = "ok", "warning", "bad"
NOT_HERE, NOT_READ = "not here yet", "not read yet"
NAMED = 3  # duplicates of a scan to name in a message


@dataclass(frozen=True)
class Verdict:
    """A scan (or the sheet itself) is ``ok``, ``warning``, ``bad``, or not here or read yet."""

    scan: str
    split: str
    image: str
    verdict: str
    reason: str = ""


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Read the table of ``quicknat check``.

    Raises:
        InputError: the file is missing, or is not such a table.
    """
    try:
        return read_records(path, Verdict)
    except (OSError, ValueError) as error:
        fix = "run that command again"
        raise InputError(path, f"is not a table of 'quicknat check' ({error})", fix) from error


def write_verdicts(path: str | Path, verdicts: Sequence[Verdict]) -> None:
    """Write the table as TSV."""
    write_records(path, Verdict, verdicts)


def as_text(verdicts: Sequence[Verdict]) -> str:
    """Return the table in aligned columns, and a line of counts."""
    rows = [tuple(columns(Verdict)), *map(astuple, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = Counter(verdict.verdict for verdict in verdicts)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in (OK, WARNING, BAD, NOT_HERE))
    return "\n".join([*lines, "", f"{len(verdicts)} checked: {summary}"])


@dataclass
class _Case:
    """A scan, those of its files that are present, and the findings about it."""

    scan: Scan
    image: str
    files: dict[str, File] = field(default_factory=dict)  # "image", "labels"
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def verdict(self) -> Verdict:
        ranked = {BAD: self.problems, NOT_HERE: self.waiting, NOT_READ: self.unread}
        ranked |= {WARNING: self.warnings, OK: [""]}
        word = next(word for word, reasons in ranked.items() if reasons)
        reason = " | ".join(ranked[word])
        return Verdict(self.scan.id, self.scan.split, self.image, word, reason)


def _problem(about: str | Path, check: Callable[..., object], *arguments: object) -> str:
    """Return why a check fails, without the name of the file; "" if it passes."""
    try:
        check(*arguments)
    except InputError as error:
        return explain(error, about)
    return ""


def _open_case(scan: Scan, paths: CohortPaths) -> _Case:
    """Find a scan's files."""
    source, name = (scan.source, scan.image) if scan.image else (scan.labels_source, scan.labels)
    case = _Case(scan, paths.path(source, name))
    wanted = {"image": (scan.source, scan.image), "labels": (scan.labels_source, scan.labels)}
    for part, (source, name) in wanted.items():
        convention = scan.label_convention if part == "labels" else ""
        if not name or (part == "labels" and (not convention or scan.split == "segment")):
            continue  # the sheet's check reports a missing convention; `segment` needs no labels
        path = paths.path(source, name)
        if not paths.fetched(source):
            case.waiting.append(f"'{source}' has not been downloaded")
        elif not paths.in_place(source) and not find_all(path):
            case.waiting.append(f"{path} is not among the files of '{source}'")
        else:
            try:
                found = find_one(path)
            except InputError as error:
                case.problems.append(explain(error, case.image))
            else:
                orientation = paths.orientation(scan, source)
                case.files[part] = File(found, orientation, convention)
    return case


def _judge(case: _Case, findings: Mapping[File, Finding]) -> None:
    """Record the findings about a scan's files, and whether their grids match."""
    grids = {}
    for part, file in case.files.items():
        if file not in findings:
            case.unread.append("the job that segments it will read it")
            continue
        finding = findings[file]
        about = "" if part == "image" else f"{file.path}: "
        case.warnings += finding.warnings
        case.problems += [about + finding.problem] if finding.problem else []
        if finding.shape:
            x, y, z = finding.shape
            grids[part] = Grid((x, y, z), np.array(finding.affine))
    if len(grids) == 2:
        path = case.files["labels"].path
        wrong = _problem("", require_same_grid, path, grids["labels"], grids["image"])
        case.problems += [wrong] if wrong else []


def _compare(cases: Sequence[_Case], findings: Mapping[File, Finding]) -> None:
    """Record images listed under several names; across splits that is leakage."""
    same: dict[str, list[_Case]] = defaultdict(list)
    for case in cases:
        finding = findings.get(case.files["image"]) if "image" in case.files else None
        if finding and finding.content:
            same[finding.content].append(case)
    for group in same.values():
        leak = len({side(case.scan.split) for case in group} - {""}) > 1
        for case in group:
            others = [f"{c.scan.id} ({c.scan.split})" for c in group if c is not case]
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            names = ", ".join(others[:NAMED]) + more
            if others and leak:
                case.problems.append(f"the same image is in another split: {names}")
            elif others:
                case.warnings.append(f"the same image as {names}")


def check_scans(
    scans: Sequence[Scan],
    paths: CohortPaths,
    protocol: Path | None,
    cache: dict[str, Finding],
    threads: int,
    faults: Mapping[Scan, Sequence[str]] | None = None,
    unread: Collection[str] = (),
) -> list[Verdict]:
    """Check the files of scans, and the scans against each other.

    Args:
        scans: to check; `paths` knows their sources.
        paths: where their files are.
        protocol: label protocol (TSV) for the label maps; None: there are no label maps.
        cache: as :func:`examine_files` takes and updates it.
        threads: files to read at a time.
        faults: known problems, by scan.
        unread: names of scans whose files are only located, unless the cache knows them.

    Returns:
        A verdict for each scan, in the same order.
    """
    cases = [_open_case(scan, paths) for scan in scans]
    for case in cases:
        case.problems[:0] = (faults or {}).get(case.scan, ())
    files = dict.fromkeys(file for case in cases for file in case.files.values())
    later = {file for case in cases if case.scan.id in unread for file in case.files.values()}
    findings = examine_files(files, protocol, cache, threads, later)
    for case in cases:
        _judge(case, findings)
    _compare(cases, findings)
    return [case.verdict() for case in cases]


def check_cohort(
    paths: CohortPaths,
    protocol: Path,
    cache: dict[str, Finding],
    threads: int,
    examined: tuple[list[Scan], list[Fault]] | None = None,
    unread: Collection[str] = (),
) -> tuple[list[Verdict], bool]:
    """Check a sheet, every file that it names, and the scans against each other; write nothing.

    Args:
        paths: the sheet, and where its files are.
        protocol: label protocol (TSV).
        cache: as :func:`examine_files` takes and updates it.
        threads: files to read at a time.
        examined: what :func:`examine_sheet` returns for the sheet, if it has been called.
        unread: as for :func:`check_scans`.

    Returns:
        Verdicts on the sheet and on invalid rows, then on each scan; and whether the sheet itself
        has errors.

    Raises:
        InputError: the sheet or the protocol cannot be read.
    """
    scans, faults = examined or examine_sheet(paths.sheet, paths.auto)
    verdicts, reasons, valid = [], defaultdict(list), set(scans)
    for fault in faults:
        reason = explain(fault.error, paths.sheet).removeprefix(f"{paths.sheet} ")
        if fault.scan in valid:
            reasons[fault.scan].append(reason)
        else:
            scan = fault.scan or Scan("", paths.sheet, "")
            name = scan.id if fault.scan else "(sheet)"
            verdicts.append(Verdict(name, scan.split, scan.image, BAD, reason))
    notes = [repeated_participants(scans)]
    people = Path(paths.sheet).parent / PARTICIPANTS
    # otherwise the report would fail at the end of the run
    if people.exists() and (reason := _problem(people, read_participants, people)):
        verdicts.append(Verdict("(participants)", "", str(people), BAD, reason))
    elif people.exists():
        subjects = list(dict.fromkeys(scan.subject for scan in scans))
        known = read_participants(people, subjects).index
        absent = [name for name in subjects if f"sub-{name}" not in known]
        what = f"{people} has no row for {len(absent)} of {len(subjects)} subjects"
        notes += [f"{what}, e.g. sub-{absent[0]}"] if absent else []
    reachable = []
    for scan in scans:
        if reason := _problem(paths.sheet, paths.require_sources, scan):
            reason = " | ".join([*reasons[scan], reason])
            verdicts.append(Verdict(scan.id, scan.split, scan.image, BAD, reason))
        else:
            reachable.append(scan)
    faulty = bool(verdicts or faults)
    verdicts += [
        Verdict("(participants)", "", paths.sheet, WARNING, note) for note in notes if note
    ]
    verdicts += check_scans(reachable, paths, protocol, cache, threads, reasons, unread)
    return verdicts, faulty


def check_for_workflow(
    paths: CohortPaths,
    protocol: Path,
    cache: dict[str, Finding],
    threads: int,
    on_bad_scan: str,
    examined: tuple[list[Scan], list[Fault]] | None = None,
    unread: Collection[str] = (),
) -> list[Verdict]:
    """Check a cohort before a run, and reject it if it cannot be used.

    Args:
        on_bad_scan: ``stop`` rejects a cohort with bad scans; ``skip`` only one whose sheet has
            errors, since the splits are then unknown.
        Others: see :func:`check_cohort`.

    Returns:
        The verdicts, to be written when the run starts.

    Raises:
        InputError: lists every bad scan, one per line.
    """
    verdicts, faulty = check_cohort(paths, protocol, cache, threads, examined, unread)
    bad = [verdict for verdict in verdicts if verdict.verdict == BAD]
    lines = [f"{verdict.scan}: {verdict.image}: {verdict.reason}" for verdict in bad]
    if bad and (faulty or on_bad_scan == "stop"):
        skip = "repair these, or leave them out: --config on_bad_scan=skip"
        fix = "repair the sheet" if faulty else skip
        raise InputError(paths.sheet, "\n  ".join([f"{len(bad)} cannot be used; {fix}", *lines]))
    for line in lines:
        log.warning("skipped: %s", line)
    for verdict in verdicts:
        if verdict.verdict == WARNING and not verdict.split:  # of the cohort, not of a scan
            log.warning("%s: %s", verdict.image, verdict.reason)
    return verdicts
