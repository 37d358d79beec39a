"""Check a whole cohort before a run: the sheet, its files, and duplicate images."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from quicknat.cohort.examine import File, Finding, examine_files, explain
from quicknat.cohort.participants import PARTICIPANTS, read_participants, repeated_participants
from quicknat.cohort.paths import CohortPaths, find_all, find_one
from quicknat.cohort.sheet import LOCAL, Fault, Scan, examine_sheet, side
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
    """A scan, those of its files that are present, and the reasons for each verdict on it."""

    scan: Scan
    image: str
    files: dict[str, File] = field(default_factory=dict)  # "image", "labels"
    reasons: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def verdict(self) -> Verdict:
        worst = next((w for w in (BAD, NOT_HERE, NOT_READ, WARNING) if self.reasons[w]), OK)
        reason = " | ".join(self.reasons[worst])
        return Verdict(self.scan.id, self.scan.split, self.image, worst, reason)


def _open_case(scan: Scan, paths: CohortPaths) -> _Case:
    """Find a scan's files."""
    source, name = (scan.source, scan.image) if scan.image else (scan.labels_source, scan.labels)
    case = _Case(scan, paths.path(source, name))
    wanted = {"image": (scan.source, scan.image, "")}
    # the sheet's check reports a missing convention; `segment` needs no labels
    if scan.label_convention and scan.split != "segment":
        wanted["labels"] = (scan.labels_source, scan.labels, scan.label_convention)
    for part, (source, name, convention) in wanted.items():
        path = paths.path(source, name)
        if not name:
            continue
        if not paths.fetched(source):
            case.reasons[NOT_HERE].append(f"'{source}' has not been downloaded")
        elif not paths.in_place(source) and not find_all(path):
            case.reasons[NOT_HERE].append(f"{path} is not among the files of '{source}'")
        else:
            try:
                case.files[part] = File(find_one(path), paths.orientation(scan, source), convention)
            except InputError as error:
                case.reasons[BAD].append(explain(error, case.image))
    return case


def _judge(case: _Case, findings: Mapping[File, Finding]) -> None:
    """Record the findings about a scan's files, and whether their grids match."""
    grids = []
    for part, file in case.files.items():
        if file not in findings:
            case.reasons[NOT_READ].append("the job that segments it will read it")
            continue
        finding = findings[file]
        case.reasons[WARNING] += finding.warnings
        if finding.problem:
            about = "" if part == "image" else f"{file.path}: "
            case.reasons[BAD].append(about + finding.problem)
        if finding.shape:
            x, y, z = finding.shape
            grids.append(Grid((x, y, z), np.array(finding.affine)))
    if len(grids) == 2:
        try:
            require_same_grid(case.files["labels"].path, labels=grids[1], image=grids[0])
        except InputError as error:
            case.reasons[BAD].append(explain(error, ""))


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
            others = [
                f"{c.scan.id} ({c.scan.split})" if c.scan.split else c.scan.id
                for c in group
                if c is not case
            ]
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            names = ", ".join(others[:NAMED]) + more
            if others and leak:
                case.reasons[BAD].append(f"the same image is in another split: {names}")
            elif others:
                case.reasons[WARNING].append(f"the same image as {names}")


def check_scans(
    scans: Sequence[Scan],
    paths: CohortPaths,
    protocol: Path | None,
    cache: dict[str, Finding],
    threads: int,
    faults: Mapping[Scan, Sequence[str]] | None = None,
    unread: Collection[str] = (),
) -> list[Verdict]:
    """Check the files of scans, and the scans against each other; return a verdict for each.

    Args:
        scans, paths: the scans to check, and where their files are.
        protocol, cache, threads: as for :func:`examine_files`.
        faults: known problems, by scan.
        unread: names of scans whose files are only located, unless the cache knows them.
    """
    cases = [_open_case(scan, paths) for scan in scans]
    files = dict.fromkeys(file for case in cases for file in case.files.values())
    later = {file for case in cases if case.scan.id in unread for file in case.files.values()}
    findings = examine_files(files, protocol, cache, threads, later)
    for case in cases:
        case.reasons[BAD][:0] = (faults or {}).get(case.scan, ())
        _judge(case, findings)
    _compare(cases, findings)
    return [case.verdict() for case in cases]


def _check_participants(sheet: str, scans: Sequence[Scan]) -> list[Verdict]:
    """Return verdicts on the table of participants, and a warning if several may be one."""
    table = Path(sheet).parent / PARTICIPANTS
    found = [(sheet, WARNING, repeated_participants(scans))]
    if table.exists():
        subjects = list(dict.fromkeys(scan.subject for scan in scans))
        try:
            known = read_participants(table, subjects).index
        except InputError as error:  # otherwise the report would fail at the end of the run
            found.append((str(table), BAD, explain(error, table)))
        else:
            absent = [name for name in subjects if f"sub-{name}" not in known]
            what = f"{table} has no row for {len(absent)} of {len(subjects)} subjects"
            found.append((sheet, WARNING, f"{what}, e.g. sub-{absent[0]}" if absent else ""))
    return [
        Verdict("(participants)", "", where, verdict, reason)
        for where, verdict, reason in found
        if reason
    ]


def check_cohort(
    paths: CohortPaths,
    protocol: Path,
    cache: dict[str, Finding],
    threads: int,
    examined: tuple[list[Scan], list[Fault]] | None = None,
    unread: Collection[str] = (),
) -> tuple[list[Verdict], bool]:
    """Check a sheet, every file that it names, and the scans against each other; write nothing.

    `examined` is what :func:`examine_sheet` returns, if it has been called; the others are as for
    :func:`check_scans`.

    Returns:
        Verdicts on the sheet and on invalid rows, then on each scan; and whether the sheet itself
        has errors.

    Raises:
        InputError: the sheet or the protocol cannot be read.
    """
    scans, faults = examined or examine_sheet(paths.sheet, paths.auto)
    verdicts, valid = [], set(scans)
    reasons: dict[Scan, list[str]] = defaultdict(list)
    for fault in faults:
        reason = explain(fault.error, paths.sheet).removeprefix(f"{paths.sheet} ")
        if fault.scan in valid:
            if reason not in reasons[fault.scan]:  # of two equal rows
                reasons[fault.scan].append(reason)
        elif fault.scan:
            verdicts.append(Verdict(fault.scan.id, fault.scan.split, fault.scan.image, BAD, reason))
        else:
            verdicts.append(Verdict("(sheet)", "", paths.sheet, BAD, reason))
    verdicts += _check_participants(paths.sheet, scans)
    allowed = [LOCAL, *paths.sources]
    for scan in scans:
        unknown = [name for name in (scan.source, scan.labels_source) if name not in allowed]
        if unknown:
            what = f"{scan.id} names the source '{unknown[0]}'; allowed: {', '.join(allowed)}"
            reason = " | ".join([*reasons[scan], what])
            verdicts.append(Verdict(scan.id, scan.split, scan.image, BAD, reason))
            valid.discard(scan)  # of two equal rows, the second finds it gone
    faulty = bool(faults) or any(verdict.verdict == BAD for verdict in verdicts)
    reachable = [scan for scan in scans if scan in valid]
    verdicts += check_scans(reachable, paths, protocol, cache, threads, reasons, unread)
    return verdicts, faulty


def require_usable_scans(
    verdicts: Sequence[Verdict], faulty: bool, sheet: str, on_bad_scan: str
) -> None:
    """Reject a cohort that a run cannot use; log warnings, and the scans that it skips.

    `verdicts` and `faulty` are of :func:`check_cohort`. ``on_bad_scan: stop`` rejects a cohort with
    bad scans; ``skip`` only one whose sheet has errors, since the splits are then unknown.

    Raises:
        InputError: lists every bad scan, one per line.
    """
    bad = [verdict for verdict in verdicts if verdict.verdict == BAD]
    lines = [f"{verdict.scan}: {verdict.image}: {verdict.reason}" for verdict in bad]
    if bad and (faulty or on_bad_scan == "stop"):
        skip = "repair these, or leave them out: --config on_bad_scan=skip"
        fix = "repair the sheet" if faulty else skip
        scans = len({verdict.scan for verdict in bad})  # a row may have several errors
        raise InputError(sheet, "\n  ".join([f"{scans} cannot be used; {fix}", *lines]))
    for line in lines:
        log.warning("skipped: %s", line)
    for verdict in verdicts:
        if verdict.verdict == WARNING and not verdict.split:  # of the cohort, not of a scan
            log.warning("%s: %s", verdict.image, verdict.reason)
