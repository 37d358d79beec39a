"""The command `sheet`, which lists the scans of a data set."""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicknat.cli.app import FilterFile, Participants, Sessions, app
from quicknat.errors import InputError

if TYPE_CHECKING:
    from quicknat.cohort.sheet import Scan

log = logging.getLogger(__name__)


Layout = StrEnum("Layout", "oasis1 ixi bids fastsurfer freesurfer synthseg plain folders")
Split = StrEnum("Split", "auto pretrain train val test segment")


@app.command()
def sheet(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of the data set; or a .tar(.gz) of OASIS-1, IXI or FreeSurfer results."
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
    demographics: Annotated[
        Path | None,
        typer.Option(help="OASIS-1's oasis_cross-sectional.csv, for participants.tsv."),
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Append scans that the sheet lacks; keep its rows."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write the sheet of a data set, and list what was found and what was left out.

    Layouts: a FreeSurfer or FastSurfer SUBJECTS_DIR, a BIDS data set, OASIS-1 discs, IXI, SynthSeg
    output, a folder of NIfTI or MGZ files (`X_dseg`, `X_seg`, `X_labels` or `X_aseg` is the label
    map of `X`), or one such folder per scan. Only file names are read.

    Subject names keep only letters and digits. Names of OASIS and ADNI give participant and visit;
    fill in the column `participant` if others may stand for one participant.

    Example: `quicknat sheet /data/SUBJECTS_DIR --output cohort.tsv`; later, to add new scans:
    `quicknat sheet /data/SUBJECTS_DIR --output cohort.tsv --add`
    """
    from quicknat.cohort.layouts import PARTIAL
    from quicknat.cohort.leakage import repeated_participants
    from quicknat.cohort.selection import Selection
    from quicknat.cohort.sheet import LOCAL
    from quicknat.cohort.survey import survey
    from quicknat.cohort.writing import add_to_sheet, read_demographics, resolve, write_sheet

    if add and overwrite:
        raise typer.BadParameter("--add and --overwrite contradict each other")

    selection = Selection.read(participant_label or (), session_label or (), bids_filter_file)
    people = read_demographics(demographics) if demographics else None
    found = survey(data, layout or "", source or LOCAL, labels_from)
    if found.left_out:
        width = max(len(item.path) for item in found.left_out)
        log.info("left out of %s:", data)
        for item in found.left_out:
            log.info("  %-*s  %s", width, item.path, item.reason)
    if not found.scans:
        raise InputError(data, f"has no usable scan (layout {found.layout})", "see reasons above")
    chosen = selection.of(found.scans, attrgetter("id"), data)
    rows = resolve(chosen, split or "", label_convention)
    log.info("%s: %d scans of %d participants (layout %s)",
             data, len(rows), len({row.participant for row in rows}), found.layout)  # fmt: skip
    if add:
        scans, new = add_to_sheet(rows, output, people)
        log.info("%s: %d of them are new, for a total of %d", output, new, len(scans))
    else:
        scans = write_sheet(rows, output, people, overwrite)
    splits = Counter(scan.split for scan in scans)
    automatic = any(row.split == "auto" for row in rows)
    for name in Split:
        if splits[name]:
            by_hash = automatic and name in ("train", "val", "test")
            log.info("  %-8s  %d%s", name, splits[name], "  (by split=auto)" if by_hash else "")
    if automatic:
        log.info("  with a finished model (model=…), split=auto means segment")

    def names(some: list[Scan]) -> str:
        return ", ".join(scan.id for scan in some[:3]) + ", …" * (len(some) > 3)

    bare = [row for row in rows if not row.labels]
    if 0 < len(bare) < len(rows):
        log.info("  %d without labels: %s", len(bare), names(bare))
    visits = Counter((row.subject, row.session) for row in rows)
    repeated = [row for row in rows if visits[row.subject, row.session] > 1]
    if repeated:
        log.info("  %d are one of several of a visit: %s; see 'split=exclude'",
                 len(repeated), names(repeated))  # fmt: skip
    if partial := [row for row in rows if PARTIAL.search(row.entities)]:
        log.warning("  by name not a plain scan of the whole head: %s", names(partial))
    if warning := repeated_participants(scans):
        log.warning("warning: %s", warning)
    if splits["train"] and not splits["val"]:
        log.info("  no validation scan: the weights of the last epoch will be kept; see 'split'")
    if splits["train"] and not splits["test"]:
        log.info("  no test scan: there will be no scores; see 'split'")
    if not splits["train"] and splits["segment"] + splits["test"]:
        log.info("  no training scan: use a bundled model, --config sheet=%s model=1mm", output)
    log.info("%d left out; wrote %s; next: quicknat check %s", len(found.left_out), output, output)
