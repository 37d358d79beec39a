"""The BIDS App: segment the participants of a data set, and collect their volumes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from quicknat.cli.app import (
    FilterFile,
    ModelFolder,
    Orientation,
    Participants,
    Sessions,
    Threads,
    run_app,
    set_up_log,
)
from quicknat.cli.segment import (
    BatchSize,
    Device,
    Fast,
    Mgz,
    Numbers,
    OverwriteDone,
    Precision,
    Samples,
    Views,
    segment,
)
from quicknat.errors import InputError
from quicknat.hardware import available_cpus

log = logging.getLogger(__name__)

LISTS = ("--participant-label", "--session-label")


Level = Literal["participant", "group"]
app = typer.Typer(
    name="quicknat-bids", pretty_exceptions_enable=False, rich_markup_mode="markdown"
)  # fmt: skip


@app.command()
def bids(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set.")],
    output_dir: Annotated[Path, typer.Argument(help="Output folder, a BIDS derivative.")],
    level: Annotated[Level, typer.Argument(help="participant: segment; group: collect volumes.")],
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: FilterFile = None,
    skip_bids_validation: Annotated[
        bool,
        typer.Option(
            "--skip-bids-validation",
            help="Accept data sets without the dataset_description.json that BIDS requires.",
        ),
    ] = False,
    model: ModelFolder = None,
    fast: Fast = False,
    label_convention: Numbers = "",
    mgz: Mgz = False,
    uncertainty: Samples = 0,
    views: Views = False,
    orientation: Orientation = "",
    overwrite: OverwriteDone = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = available_cpus(),
) -> None:
    """Segment the T1w scans of a BIDS data set: `quicknat segment` as a BIDS App.

    Jobs for different participants can run in parallel; afterwards, the level `group` writes the
    tables of all volumes.

    Example: `quicknat-bids /data/bids /data/derivatives/quicknat participant --participant-label
    01 02`
    """
    from quicknat.segmentation.outputs import require_bids
    from quicknat.segmentation.volumes import find_volume_tables, write_volume_tables

    set_up_log()
    if not skip_bids_validation:
        require_bids(bids_dir)
    if level == "participant":
        segment(
            output_dir, [bids_dir], model, fast, participant_label=participant_label,
            session_label=session_label, bids_filter_file=bids_filter_file,
            orientation=orientation, overwrite=overwrite, uncertainty=uncertainty, views=views,
            label_convention=label_convention, mgz=mgz, batch_size=batch_size, device=device,
            precision=precision, threads=threads,
        )  # fmt: skip
        return
    tables = find_volume_tables(output_dir)
    if not tables:
        raise InputError(output_dir, "holds no segmentation", "run the level participant first")
    write_volume_tables(tables, output_dir)
    log.info("%s: volumes of %d scans", output_dir, len(tables))


def separated(arguments: list[str]) -> list[str]:
    """Repeat the name of an option before each of its values: BIDS Apps take lists of labels.

    Names of options may have underscores. An option without any value stays, so that it is refused
    and does not select everything.
    """
    result: list[str] = []
    option = ""
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=True):
        if argument.startswith("-"):
            name, equals, value = argument.partition("=")
            argument = f"{name.replace('_', '-')}{equals}{value}"
            option = argument if argument in LISTS else ""
            result += [] if option and not after.startswith("-") else [argument]
        else:
            result += [option, argument] if option else [argument]
    return result


def main() -> None:
    """Run the BIDS App, with exit statuses and errors of `quicknat`."""
    sys.argv[1:] = separated(sys.argv[1:])
    run_app(app)
