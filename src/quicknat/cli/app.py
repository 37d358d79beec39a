"""The typer application, the options that commands share, and error reporting."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

import quicknat
from quicknat.errors import (
    InputError,
    Interrupted,
    for_users,
    missing_extra,
    notice,
    one_line,
    printable,
)
from quicknat.package_data import LABEL_TABLES, MODELS, label_table, model_folder

RENAMED_COMMANDS = {"reshape": "warp"}  # old name: new name
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
    """Replace old names of a command and its options, with a notice for each.

    Options may be written with underscores, as BIDS Apps are used to.
    """
    command, *rest = arguments
    if command in RENAMED_COMMANDS:
        notice(f"'quicknat {command}' is now 'quicknat {RENAMED_COMMANDS[command]}'")
        command = RENAMED_COMMANDS[command]
    renamed = RENAMED_OPTIONS.get(command, {})
    options = rest.index("--") if "--" in rest else len(rest)
    for position, argument in enumerate(rest[:options]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
            rest[position] = f"{name}{equals}{value}"
        if name in renamed:
            notice(f"'quicknat {command} {name}' is now '{renamed[name]}'")
            rest[position] = f"{renamed[name]}{equals}{value}"
    return [command, *rest]


class Commands(TyperGroup):
    """A group of commands that accepts their old names too."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments begin with."""
        return super().resolve_command(ctx, current_names(args))


app = typer.Typer(
    name="quicknat",
    cls=Commands,
    help="QuickNAT: segment T1-weighted brain MRI, and train on your own labels.",
    epilog="To segment: `quicknat segment SCAN --output FOLDER`. To train on your own scans: "
    "`quicknat sheet FOLDER --output cohort.tsv`, `quicknat check cohort.tsv`, then `snakemake "
    "--cores all --config sheet=cohort.tsv`. Each command's `--help` has an example.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
log = logging.getLogger("quicknat")
STEPS = "Workflow steps, called by Snakemake"  # a heading of --help


View = Literal["coronal", "axial", "sagittal"]
ProtocolFile = Annotated[
    Path,
    typer.Option(
        "--protocol", parser=label_table, metavar="NAME|PATH",
        help=f"Label table: {', '.join(LABEL_TABLES)}, or the path of a TSV.",
    ),
]  # fmt: skip
QUICKNAT28 = Path("quicknat28")  # the default protocol, by name
MODEL_HELP = f"Bundled model ({', '.join(MODELS)}), or the path of a model folder."
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model", parser=model_folder, metavar="NAME|FOLDER", help=MODEL_HELP, show_default="1mm"
    ),
]
BUNDLED_MODEL = Path("1mm")  # the default model, by name
Orientation = Annotated[
    str,
    typer.Option(
        help="Directions of the array axes, e.g. LAS, if the header has no orientation; or qform "
        "or sform, the transform to trust if the two disagree."
    ),
]
Convention = Annotated[
    str,
    typer.Option(
        "--label-convention",
        help="Label convention of the label map: freesurfer, neuromorphometrics, or the "
        "protocol's name.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads to use.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results, even those of another scan.")
]
Spacing = Annotated[float, typer.Option(min=0.1, help="Voxel size of the conformed grid in mm.")]
Size = Annotated[int, typer.Option(min=16, help="Side of the conformed cube in voxels.")]
SliceSize = Annotated[int, typer.Option(min=16, help="Side of the slices; a multiple of 16.")]

Participants = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Only these participants (repeatable, or comma-separated)."),
]
Sessions = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Only these sessions (repeatable, or comma-separated)."),
]
FilterFile = Annotated[
    Path | None,
    typer.Option(help="Only scans with these entities: 't1w' in a JSON file as for fMRIPrep."),
]


def nifti_name(path: Path) -> Path:
    """Return a path that ends in .nii.gz, from which writers infer the format; reject others."""
    if not path.name.endswith(".nii.gz"):
        raise typer.BadParameter("must end in .nii.gz")
    return path


def check_name(name: str) -> None:
    """Reject a name that would place results in another folder."""
    if name in (".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise typer.BadParameter(f"{name!r} is not a valid name: use letters and digits")


def parsed_json(text: str, option: str) -> dict:
    """Return an option's value parsed as a JSON object; reject anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{option} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option} is not a JSON object, e.g. {{}}")
    return value


def read_list(path: Path) -> list[str]:
    """Return the non-empty lines of a text file."""
    try:
        return [line for line in path.read_text("utf-8").split("\n") if line]
    except ValueError as error:
        raise InputError(path, f"is not UTF-8 text ({error})", "save it as UTF-8") from error


class PrintableFormatter(logging.Formatter):
    """A formatter of log lines whose file names cannot steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as printable text."""
        return printable(super().format(record))


def use_utf8() -> None:
    """Make Python read, write and name files in UTF-8, whatever the locale; print what it can.

    With another encoding Python is restarted, since it decides on file names at start-up.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a notebook's, or a test's
            stream.reconfigure(errors="backslashreplace")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quicknat {quicknat.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of errors.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only warnings and errors; no progress bars.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Prefix log lines with time, level and module.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["QUICKNAT_DEBUG"] = "1"
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose contradict each other")
    if quiet:
        os.environ["QUICKNAT_QUIET"] = "1"
    set_up_log(logging.WARNING if quiet else logging.INFO, verbose)


def set_up_log(level: int = logging.INFO, verbose: bool = False) -> None:
    """Write log lines of a level and above to standard error; of other packages only warnings."""
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(form))
    handler.addFilter(
        lambda line: line.levelno >= logging.WARNING or line.name.startswith(log.name)
    )
    logging.basicConfig(level=level, handlers=[handler])


def main() -> None:
    """Run the command line, see :func:`run_app`."""
    run_app(app)


def run_app(chosen: typer.Typer) -> None:
    """Run a command line; exit with 1 and a one-line error on bad input, 75 if interrupted."""
    use_utf8()
    try:
        chosen()
    except Interrupted as stop:
        typer.echo(f"interrupted: {stop}", err=True)
        sys.exit(stop.EXIT_STATUS)
    except (InputError, OSError, MemoryError, UnicodeEncodeError, ModuleNotFoundError) as error:
        lacking = missing_extra(error) if isinstance(error, ModuleNotFoundError) else error
        if lacking is None or os.environ.get("QUICKNAT_DEBUG"):
            raise
        typer.echo(f"error: {one_line(for_users(lacking))}", err=True)
        sys.exit(1)
