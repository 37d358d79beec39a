"""Check a whole cohort before anything is computed: the sheet, the files, and all together."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from quicknat.cohort.examine import File, Finding, examine_files, explain
from quicknat.cohort.paths import Places, find_all, find_one
from quicknat.cohort.sheet import Scan, examine_sheet, side
from quicknat.cohort.writing import PARTICIPANTS, read_participants
from quicknat.errors import InputError
from quicknat.images.volumes import Grid, require_same_grid
from quicknat.records import columns, read_records, write_records

log = logging.getLogger(__name__)

OK, WARNING, BAD, NOT_HERE = "ok", "warning", "bad", "not here yet"
NAMED = 3  # copies of a scan to name


@dataclass(frozen=True)
class Verdict:
    """A row: a scan (or the sheet itself), and ``ok``, ``warning``, ``bad`` or ``not here yet``."""

    scan: str
    split: str
    image: str
    verdict: str
    reason: str = ""


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Read the table of ``quicknat check``.

    Raises:
        InputError: missing, or another table.
    """
    try:
        return read_records(path, Verdict)
    except (OSError, ValueError) as error:
        fix = "run 'quicknat check'"
        raise InputError(path, f"is no table of a check ({error})", fix) from error


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
    """A scan, its files as far as they are here, and what was found about it."""

    scan: Scan
    image: str
    files: dict[str, File] = field(default_factory=dict)  # "image", "labels"
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def verdict(self) -> Verdict:
        ranked = {BAD: self.problems, NOT_HERE: self.waiting, WARNING: self.warnings, OK: [""]}
        word = next(word for word, reasons in ranked.items() if reasons)
        reason = " | ".join(ranked[word])
        return Verdict(self.scan.id, self.scan.split, self.image, word, reason)


def _problem(about: str | Path, check: Callable[..., object], *arguments: object) -> str:
    """Return why a check refuses its arguments, without the name of the file; else ""."""
    try:
        check(*arguments)
    except InputError as error:
        return explain(error, about)
    return ""


def _open_case(scan: Scan, places: Places) -> _Case:
    """Find a scan's files."""
    source, name = (scan.source, scan.image) if scan.image else (scan.labels_source, scan.labels)
    case = _Case(scan, places.path(source, name))
    wanted = {"image": (scan.source, scan.image), "labels": (scan.labels_source, scan.labels)}
    for part, (source, name) in wanted.items():
        convention = scan.label_convention if part == "labels" else ""
        if not name or (part == "labels" and (not convention or scan.split == "segment")):
            continue  # labels without a convention are a fault of the sheet; to segment takes none
        path = places.path(source, name)
        if not places.fetched(source):
            case.waiting.append(f"'{source}' is not fetched")
        elif not places.in_place(source) and not find_all(path):
            case.waiting.append(f"{path} is not among the files of '{source}'")
        elif wrong := _problem(case.image, find_one, path):
            case.problems.append(wrong)
        else:
            orientation = places.orientation(scan, source)
            case.files[part] = File(find_one(path), orientation, convention)
    return case


def _judge(case: _Case, findings: Mapping[File, Finding]) -> None:
    """Note what its files, and the two together, say about a scan."""
    grids = {}
    for part, file in case.files.items():
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
    """Note images that stand under several names; across splits that is leakage."""
    same: dict[str, list[_Case]] = defaultdict(list)
    for case in cases:
        if "image" in case.files and (content := findings[case.files["image"]].content):
            same[content].append(case)
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
    places: Places,
    protocol: Path | None,
    cache: dict[str, Finding],
    threads: int,
    faults: Mapping[Scan, Sequence[str]] | None = None,
) -> list[Verdict]:
    """Check the files of scans, and the scans against each other.

    Args:
        scans: which; their sources are known to `places`.
        places: where their files are.
        protocol: label protocol (TSV) that label maps are to become; None: there are none.
        cache: as :func:`examine_files` takes and updates it.
        threads: files to read at a time.
        faults: what is known to be wrong with some of them.

    Returns:
        A verdict for each scan, in their order.
    """
    cases = [_open_case(scan, places) for scan in scans]
    for case in cases:
        case.problems[:0] = (faults or {}).get(case.scan, ())
    files = dict.fromkeys(file for case in cases for file in case.files.values())
    findings = examine_files(files, protocol, cache, threads)
    for case in cases:
        _judge(case, findings)
    _compare(cases, findings)
    return [case.verdict() for case in cases]


def check_cohort(
    places: Places, protocol: Path, cache: dict[str, Finding], threads: int
) -> tuple[list[Verdict], bool]:
    """Check a sheet, every file that it names, and the scans against each other; write nothing.

    Args:
        places: the sheet, and where its files are.
        protocol: label protocol (TSV).
        cache: as :func:`examine_files` takes and updates it.
        threads: files to read at a time.

    Returns:
        A verdict for each scan, after those on the sheet as a whole and on rows that describe no
        scan; and whether the sheet itself has faults.

    Raises:
        InputError: the sheet is no table, or the protocol is none.
    """
    scans, faults = examine_sheet(places.sheet, places.auto)
    verdicts, reasons = [], defaultdict(list)
    for fault in faults:
        reason = explain(fault.error, places.sheet).removeprefix(f"{places.sheet} ")
        if fault.scan in scans:
            reasons[fault.scan].append(reason)
        else:
            scan = fault.scan or Scan("", places.sheet, "")
            name = scan.id if fault.scan else "(sheet)"
            verdicts.append(Verdict(name, scan.split, scan.image, BAD, reason))
    people = Path(places.sheet).parent / PARTICIPANTS
    # the report would fail over it when all else is done
    if people.exists() and (reason := _problem(people, read_participants, people)):
        verdicts.append(Verdict("(people)", "", str(people), BAD, reason))
    reachable = []
    for scan in scans:
        if reason := _problem(places.sheet, places.require_sources, scan):
            reason = " | ".join([*reasons[scan], reason])
            verdicts.append(Verdict(scan.id, scan.split, scan.image, BAD, reason))
        else:
            reachable.append(scan)
    faulty = bool(verdicts or faults)
    verdicts += check_scans(reachable, places, protocol, cache, threads, reasons)
    return verdicts, faulty


def check_for_workflow(
    places: Places, protocol: Path, cache: dict[str, Finding], threads: int, on_bad_scan: str
) -> list[Verdict]:
    """Check a cohort before a run, and refuse it when it cannot be used as it is.

    Args:
        on_bad_scan: ``stop`` refuses a cohort with bad scans; ``skip`` only one whose sheet has
            faults, since who is in which split is then unknown.
        The others are those of :func:`check_cohort`.

    Returns:
        The verdicts, to be written once the run begins.

    Raises:
        InputError: naming every bad scan, a line each.
    """
    verdicts, faulty = check_cohort(places, protocol, cache, threads)
    bad = [verdict for verdict in verdicts if verdict.verdict == BAD]
    lines = [f"{verdict.scan}: {verdict.image}: {verdict.reason}" for verdict in bad]
    if bad and (faulty or on_bad_scan == "stop"):
        skip = "repair these, or leave them out: --config on_bad_scan=skip"
        fix = "repair the sheet" if faulty else skip
        raise InputError(places.sheet, "\n  ".join([f"{len(bad)} cannot be used; {fix}", *lines]))
    for line in lines:
        log.warning("skipped: %s", line)
    return verdicts
