"""The commands `sheet` and `check`: list the scans of a data set, and check them."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from quicknat.cli.app import (
    QUICKNAT28,
    FilterFile,
    Orientation,
    Participants,
    ProtocolFile,
    Sessions,
    Threads,
    app,
)
from quicknat.errors import InputError, printable
from quicknat.hardware import available_cpus

if TYPE_CHECKING:
    from quicknat.cohort.sheet import Scan

log = logging.getLogger(__name__)

SOURCES = Path("workflow/sources.tsv")
LISTED = 20  # new scans
Layout = Literal[
    "oasis1", "ixi", "bids", "fastsurfer", "freesurfer", "synthseg", "plain", "folders"
]  # fmt: skip
Split = Literal["auto", "pretrain", "train", "val", "test", "segment"]


@app.command()
def sheet(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of the data set, or a .tar(.gz) of OASIS-1, IXI or FreeSurfer results."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Sheet to write.")] = Path("cohort.tsv"),
    layout: Annotated[
        Layout | None, typer.Option(help="Layout of the data set; default: detected.")
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="Split of the scans. Default: auto with labels, segment without, pretrain for "
            "IXI. Scans without labels can only be pretrain or segment."
        ),
    ] = None,
    label_convention: Annotated[
        str,
        typer.Option(
            help="Label convention, if the layout does not imply it: freesurfer, "
            "neuromorphometrics, or the name of a label table."
        ),
    ] = "",
    labels_from: Annotated[
        Path | None,
        typer.Option(
            help="SUBJECTS_DIR with FreeSurfer results of these scans: use its images and labels."
        ),
    ] = None,
    source: Annotated[
        str, typer.Option(help="For an archive: its name in the sources table.")
    ] = "",
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: FilterFile = None,
    exclude: Annotated[
        Path | None,
        typer.Option(help="Ratings from the report: scans rated fail get split=exclude."),
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add scans that the sheet lacks; keep its rows."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write the sheet of a data set, and list the scans found and the files left out.

    Layouts: a FreeSurfer or FastSurfer SUBJECTS_DIR, a BIDS data set, OASIS-1 discs, IXI, SynthSeg
    output, a folder of NIfTI or MGZ files (`X_dseg`, `X_seg`, `X_labels` or `X_aseg` is the label
    map of `X`), or one such folder per scan. Only file names are read.

    Only letters and digits of subject names are kept. OASIS and ADNI names give participant and
    visit; fill in the column `participant` if other names may belong to one participant.

    Example: `quicknat sheet /data/SUBJECTS_DIR --output cohort.tsv`; later, to add new scans:
    `quicknat sheet /data/SUBJECTS_DIR --output cohort.tsv --add`
    """
    from quicknat.cohort.naming import Selection
    from quicknat.cohort.sheet import LOCAL, read_rows, read_sheet
    from quicknat.cohort.survey import survey
    from quicknat.cohort.writing import (
        add_to_sheet,
        exclude_in_sheet,
        failed_scans,
        resolve,
        write_sheet,
    )

    if add and overwrite:
        raise typer.BadParameter("--add and --overwrite contradict each other")

    selection = Selection.read(participant_label or (), session_label or (), bids_filter_file)
    failed = failed_scans(exclude) if exclude else []
    found = survey(data, layout or "", source or LOCAL, labels_from)
    if found.left_out:
        width = max(map(len, found.left_out))
        log.info("left out of %s:", data)
        for path, reason in found.left_out.items():
            log.info("  %-*s  %s", width, path, reason)
    if not found.scans:
        raise InputError(data, f"has no usable scan (layout {found.layout})", "see reasons above")
    chosen = selection.of(found.scans, attrgetter("id"), data)
    if add and not label_convention:  # that of the sheet, if it has one
        stated = {*read_rows(output).get("label_convention", ())} - {""}
        label_convention = stated.pop() if len(stated) == 1 else ""
    rows = resolve(chosen, split or "", label_convention)
    log.info("%s: %d scans of %d participants (layout %s)",
             data, len(rows), len({row.participant for row in rows}), found.layout)  # fmt: skip
    if add:
        scans, new = add_to_sheet(rows, output)
        log.info("%s: %d of them are new, for a total of %d", output, len(new), len(scans))
        rows = [row for row in rows if row.id in new]
        for scan in [scan for scan in scans if scan.id in new][:LISTED]:
            log.info("  new: %s, %s", scan.id, scan.split)
        if any(row.labels for row in rows) and label_convention:
            log.info("  assuming label convention %s where it is not known", label_convention)
    else:
        scans = write_sheet(rows, output, overwrite)
    if failed:
        excluded = exclude_in_sheet(output, failed)
        scans = read_sheet(output)
        log.info("  %-8s  %d of %d that %s rates as fail", "exclude", len(excluded), len(failed),
                 exclude)  # fmt: skip
        if absent := [name for name in failed if name not in excluded]:
            log.warning("  not in the sheet: %s", ", ".join(absent))
    _summarize(rows, scans, output)
    command = f"quicknat check {shlex.quote(str(output))}"
    log.info("%d left out; wrote %s; next: %s", len(found.left_out), output, command)


def _summarize(rows: Sequence[Scan], scans: Sequence[Scan], sheet: Path) -> None:
    """Log the splits of a sheet's scans, and what is special about the rows that were found."""
    from quicknat.cohort.layouts import PARTIAL
    from quicknat.cohort.naming import scan_name
    from quicknat.cohort.participants import repeated_participants
    from quicknat.cohort.sheet import read_rows

    def names(some: Sequence[Scan]) -> str:
        return ", ".join(scan.id for scan in some[:3]) + ", …" * (len(some) > 3)

    splits = Counter(scan.split for scan in scans)
    raw = read_rows(sheet).reindex(columns=["subject", "session", "entities", "split"])
    raw = raw[raw.pop("split") == "auto"].fillna("")
    automatic = {scan_name(*cells) for cells in raw.itertuples(index=False)}
    by_hash = Counter(scan.split for scan in scans if scan.id in automatic)
    for name in get_args(Split):
        if splits[name]:
            some = f"{by_hash[name]} " if by_hash[name] < splits[name] else ""
            how = f"  ({some}by split=auto)" if by_hash[name] else ""
            log.info("  %-8s  %d%s", name, splits[name], how)
    if automatic:
        log.info("  with an existing model (model=…), split=auto means segment")
    bare = [row for row in rows if not row.labels]
    if 0 < len(bare) < len(rows):
        log.info("  %d without labels: %s", len(bare), names(bare))
    visits = Counter((row.subject, row.session) for row in rows)
    if repeated := [row for row in rows if visits[row.subject, row.session] > 1]:
        log.info("  %d share a visit with others: %s; set split=exclude for unwanted ones",
                 len(repeated), names(repeated))  # fmt: skip
    if partial := [row for row in rows if PARTIAL.search(row.entities)]:
        log.warning("  not whole-head scans, by their names: %s", names(partial))
    if warning := repeated_participants(scans):
        log.warning("warning: %s", warning)
    give = "in the sheet, give some scans split="
    if splits["train"] and not splits["val"]:
        log.info("  no validation scan: the weights of the last epoch will be kept; %sval", give)
    if splits["train"] and not splits["test"]:
        log.info("  no test scan: there will be no scores; %stest", give)
    if not splits["train"] and splits["segment"] + splits["test"]:
        setting = shlex.quote(f"sheet={sheet}")
        log.info("  no training scan: use a bundled model, --config %s model=1mm", setting)


@app.command()
def check(
    what: Annotated[list[Path], typer.Argument(help="Sheet (.tsv), or image files and folders.")],
    sources: Annotated[
        Path | None,
        typer.Option(help="Sources table.", show_default="workflow/sources.tsv, if it exists"),
    ] = None,
    raw: Annotated[
        Path,
        typer.Option(help="Folder for unpacked archives.", envvar="MONAI_DATA_DIRECTORY"),
    ] = Path("results/raw"),
    protocol: ProtocolFile = QUICKNAT28,
    output: Annotated[
        Path | None,
        typer.Option(help="Table of verdicts to write.", show_default="check.tsv, for a sheet"),
    ] = None,
    orientation: Orientation = "",
    threads: Threads = min(4, available_cpus()),
) -> None:
    """Check all scans of a sheet before a run, or image files; exit with status 1 if any is bad.

    If the sheet names sources, run this in the workflow's folder, to which their paths are
    relative. `--orientation` applies to image files only.

    Example: `quicknat check cohort.tsv --threads 8`
    """
    from quicknat.cohort.check import BAD, as_text, check_cohort, check_scans, write_verdicts
    from quicknat.cohort.examine import open_cache
    from quicknat.cohort.paths import CohortPaths
    from quicknat.cohort.sheet import Scan, read_sources
    from quicknat.cohort.survey import find_images

    is_sheet = [
        path.suffix.lower() in (".tsv", ".csv", ".txt") and not path.is_dir() for path in what
    ]
    if any(is_sheet) and len(what) > 1:
        raise typer.BadParameter("give one sheet, or image files")
    if is_sheet[0]:
        output = output or Path("check.tsv")
    opened: AbstractContextManager[dict] = open_cache(output) if output else nullcontext({})
    with opened as cache:
        if is_sheet[0]:
            if sources is None and SOURCES.exists():
                sources = SOURCES
            paths = CohortPaths(str(what[0]), read_sources(sources) if sources else {}, str(raw))
            verdicts, _ = check_cohort(paths, protocol, cache, threads)
        else:
            scans = [
                Scan(subject=name[4:], image=str(path), split="", orientation=orientation)
                for name, path in find_images(what)  # names are sub-…
            ]
            verdicts = check_scans(scans, CohortPaths("", {}, str(raw)), None, cache, threads)
    typer.echo(printable(as_text(verdicts)))
    if output:
        write_verdicts(output, verdicts)
        typer.echo(printable(f"table: {output}"))
    if any(verdict.verdict == BAD for verdict in verdicts):
        raise typer.Exit(1)
