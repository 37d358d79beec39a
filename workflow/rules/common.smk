# What all rules share: the checked configuration, the cohort, and where its raw files are.
# Requires: config.yaml, the sheet and the sources table, all three checked against their schemas.
import json
import os
import shutil
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from quicknat.cohort import LOCAL, read_sheet, read_table
from quicknat.errors import InputError
from quicknat.schema import check, load_schema
from quicknat.slices import VIEWS

# rules call the `quicknat` that belongs to this Snakemake, also when its environment is not active
if shutil.which("quicknat") is None:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def in_workflow(path):
    """A path of the workflow's own files, relative where possible so that results can move."""
    base = Path(workflow.basedir)
    return path if base.samefile(Path.cwd()) or os.path.isabs(path) else str(base / path)


CONFIG_SCHEMA, SHEET_SCHEMA, SOURCES_SCHEMA = (
    in_workflow(f"workflow/schemas/{name}.schema.yaml") for name in ("config", "sheet", "sources")
)
try:
    check(config, load_schema(CONFIG_SCHEMA), "configuration")
    validate(config, os.path.abspath(CONFIG_SCHEMA))  # fills in the defaults
    SHEET = in_workflow(config["sheet"])
    SCANS = {scan.id: scan for scan in read_sheet(SHEET, load_schema(SHEET_SCHEMA))}
    SOURCES = {
        row["source"]: row
        for row in read_table(in_workflow(config["sources"]), load_schema(SOURCES_SCHEMA))
    }
    for scan in SCANS.values():
        for source in {scan.source, scan.labels_source if scan.labels else LOCAL}:
            if source not in SOURCES and source != LOCAL:
                raise InputError(
                    SHEET,
                    f"{scan.id} names the source '{source}'",
                    f"known: {', '.join([LOCAL, *SOURCES])}",
                )
except InputError as error:
    raise WorkflowError(str(error)) from None

PROTOCOL = in_workflow(f"workflow/labels/{config['protocol']}.tsv")
if not Path(PROTOCOL).is_file():
    known = sorted(path.stem for path in Path(PROTOCOL).parent.glob("*.tsv"))
    raise WorkflowError(
        f"configuration: 'protocol' is '{config['protocol']}'; allowed: {', '.join(known)}"
    )
ARCHIVES = [name for name, row in SOURCES.items() if row["kind"] not in ("local", "demo")]
SCAN_DIR = "results/scans/{scan}/anat/{scan}"
CONFORMED = SCAN_DIR + "_space-conformed_T1w.nii.gz"
SEGMENTATION = "results/segmentations/{scan}/anat/{scan}_desc-quicknat"


wildcard_constraints:
    scan=r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?",
    view="|".join(VIEWS),
    source="|".join(ARCHIVES) or "none",


def scans(*uses):
    """Names of the scans with any of these uses, sorted."""
    return [name for name, scan in SCANS.items() if scan.use in uses]


def raw_path(source, path):
    """Where a file of a source is (or will be)."""
    if source == LOCAL:
        return os.path.normpath(os.path.join(os.path.dirname(SHEET), path))
    if SOURCES[source]["kind"] == "local":
        return os.path.join(in_workflow(SOURCES[source]["url"]), path)
    return f"results/raw/{source}/{path}"


def raw_inputs(source, path):
    """What a job that reads this file depends on.

    A file that lies here already is an input when it exists; when it does not, the job itself says
    so, and other scans go on. What comes out of an archive hangs on the list of its members, as
    ancient: unpacking one more member must not convert the others again.
    """
    where = raw_path(source, path)
    if source in ARCHIVES:
        return ancient(f"results/raw/{source}.members.txt")
    pair = [where, where[: -len(".img")] + ".hdr"] if where.endswith(".img") else [where]
    if source != LOCAL and SOURCES[source]["kind"] == "demo":
        return pair
    return [file for file in pair if os.path.exists(file)]


def orientation(scan, source):
    """Stated direction of the axes, of the row or else of its source."""
    return scan.orientation or SOURCES.get(source, {}).get("orientation", "")


def write_effective_config():
    """Leave the settings of this run, defaults included, beside its results."""
    Path("results").mkdir(exist_ok=True)
    Path("results/config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
