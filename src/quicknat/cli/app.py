"""The application, the options that commands share, and how errors reach the user."""

from __future__ import annotations

import json
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import quicknat
from quicknat.errors import InputError, Interrupted, for_users, notice, one_line
from quicknat.package_data import LABEL_TABLES, MODELS, label_table, model_folder

RENAMED_COMMANDS = {"reshape": "warp"}  # old name: name
RENAMED_OPTIONS = {  # by command
    "sheet": {"--use": "--split", "--protocol": "--label-convention"},
    "convert-labels": {"--numbering": "--label-convention"},
    "slice-tissues": {"--numbering": "--label-convention"},
    "synthesize": {"--numbering": "--label-convention"},
    "warp": {
        "--numbering": "--label-convention", "--like-numbering": "--like-label-convention"
    },
}  # fmt: skip


def current_names(arguments: list[str]) -> list[str]:
    """Replace old names of a command and its options, and note each that was replaced."""
    command, *rest = arguments
    if command in RENAMED_COMMANDS:
        notice(f"'quicknat {command}' is now 'quicknat {RENAMED_COMMANDS[command]}'")
        command = RENAMED_COMMANDS[command]
    renamed = RENAMED_OPTIONS.get(command, {})
    options = rest.index("--") if "--" in rest else len(rest)
    for place, argument in enumerate(rest[:options]):
        name, equals, value = argument.partition("=")
        if name in renamed:
            notice(f"'quicknat {command} {name}' is now '{renamed[name]}'")
            rest[place] = f"{renamed[name]}{equals}{value}"
    return [command, *rest]


class Commands(TyperGroup):
    """Commands, which are also found by their old names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with."""
        return super().resolve_command(ctx, current_names(args))


app = typer.Typer(
    name="quicknat",
    cls=Commands,
    help="QuickNAT: segment T1-weighted brain MRI, and train the networks that do it.",
    epilog="To segment: `quicknat segment SCAN --output FOLDER`. To train on scans of your own: "
    "`quicknat sheet FOLDER --output cohort.tsv`, `quicknat check cohort.tsv`, then `snakemake "
    "--cores all --config sheet=cohort.tsv`. Each command's `--help` has an example.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
log = logging.getLogger("quicknat")
STEPS = "Steps of the workflow, which Snakemake calls"  # a heading of --help


class View(StrEnum):
    """Which way slices are cut."""

    coronal = "coronal"
    axial = "axial"
    sagittal = "sagittal"


ProtocolFile = Annotated[
    Path,
    typer.Option(
        "--protocol", parser=label_table, metavar="NAME|PATH",
        help=f"Label table: {', '.join(LABEL_TABLES)}, or the path of one (TSV).",
    ),
]  # fmt: skip
QUICKNAT28 = Path("quicknat28")  # its default, by name
MODEL_HELP = f"Bundled model ({', '.join(MODELS)}), or the folder of another."
ModelFolder = Annotated[
    Path, typer.Option("--model", parser=model_folder, metavar="NAME|FOLDER", help=MODEL_HELP)
]
BUNDLED_MODEL = Path("1mm")  # its default, by name
Orientation = Annotated[
    str,
    typer.Option(
        help="Direction of the array axes, such as LAS, for headers that state none; or qform or "
        "sform, the one to trust where a header's two transforms contradict each other."
    ),
]
Convention = Annotated[
    str,
    typer.Option(
        "--label-convention",
        help="What the numbers in the label map mean: freesurfer, neuromorphometrics, or the "
        "protocol.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]
Spacing = Annotated[float, typer.Option(min=0.1, help="Voxel side of the conformed grid, mm.")]
Size = Annotated[int, typer.Option(min=16, help="Voxels along a side of the conformed cube.")]
SliceSize = Annotated[int, typer.Option(min=16, help="Side of the slices; a multiple of 16.")]


def nifti_name(path: Path) -> Path:
    """The name of a compressed NIfTI file to write; writers choose the format by it."""
    if not path.name.endswith(".nii.gz"):
        raise typer.BadParameter("must end in .nii.gz")
    return path


def check_name(name: str) -> None:
    """Refuse a name of results that would lead to another folder, as misuse."""
    if name in (".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise typer.BadParameter(f"{name!r} cannot be a name: give letters and digits")


def parsed_json(text: str, option: str) -> dict:
    """An option's value as JSON, which must be a mapping; anything else is misuse."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{option} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option} is no JSON object, such as {{}}")
    return value


def read_list(path: Path) -> list[str]:
    """The lines of a file that lists something, the empty ones left out."""
    try:
        return [line for line in path.read_text().split("\n") if line]
    except ValueError as error:
        raise InputError(path, f"is no list in UTF-8 ({error})", "one entry a line") from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quicknat {quicknat.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Warnings and errors only, no progress bars.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More, with the time and where it comes from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["QUICKNAT_DEBUG"] = "1"
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose contradict each other")
    level = logging.WARNING if quiet else logging.INFO
    if quiet:
        os.environ["QUICKNAT_QUIET"] = "1"
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr)


def main() -> None:
    """Run the command line; bad input becomes one line and status 1, an interruption 75."""
    try:
        app()
    except Interrupted as stop:
        typer.echo(f"interrupted: {stop}", err=True)
        sys.exit(stop.EXIT_STATUS)
    except (InputError, OSError, MemoryError) as error:
        if os.environ.get("QUICKNAT_DEBUG"):
            raise
        typer.echo(f"error: {one_line(for_users(error))}", err=True)
        sys.exit(1)
