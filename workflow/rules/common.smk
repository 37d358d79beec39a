# Shared by all rules: settings, plan of the run, and paths.
# Requires: config.yaml, the sheet and the sources table. Nothing is written.
import os
import shutil
import sys
import time
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from quicknat.cohort.naming import SCAN_NAME
from quicknat.errors import InputError
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import BUNDLE_FILES
from quicknat.reruns import (
    GRID_FORMAT,
    SCORES_FORMAT,
    SEGMENTATION_FORMAT,
    compared_settings,
    file_digest,
)
from quicknat.run import load_run, require_for_storage
from quicknat.training.model_files import MODEL_FILES

# of this workflow, even if used as a module
BASE = str(Path(str(workflow.current_basedir)).parents[1])
RESULTS = workflow.pathvars.get("results")  # "results", unless changed by `pathvars`
# folder of downloads, which MONAI users may share between projects
RAW = os.path.normpath(os.environ.get("MONAI_DATA_DIRECTORY") or f"{RESULTS}/raw")
CONFORMED = "<results>/scans/{scan}/anat/{scan}_space-conformed_T1w.nii.gz"
SEGMENTED = "<results>/segmentations/{scan}/anat/{scan}_desc-quicknat"
# literal, since `expand` accepts no rule outputs that are in storage
CHUNK = "<results>/chunks/{chunk}"
CHUNK_FILES = ["scans", "volumes", "volumes_wide"]
BUNDLED = [f"<results>/model/{name}" for name in BUNDLE_FILES]

# with --default-storage-provider: only rules whose files are all declared run elsewhere
STORAGE = workflow.storage_settings.default_storage_provider is not None
# commands read it beside the scan, so that only storage has to know
RECORD = CONFORMED.replace(".nii.gz", ".json") if STORAGE else []

# in a module with its own config, the defaults are not loaded yet
settings = load_configfile(workflow.source_path("../../config.yaml"))
update_config(settings, config)
if workflow.config_settings.replace_workflow_config:  # it would be lost in the jobs of a cluster
    raise WorkflowError("--replace-workflow-config is not supported: config.yaml has the defaults")
try:
    if STORAGE:
        require_for_storage(settings)
        settings["scans_per_job"] = 1  # its outputs are not declared
    RUN = load_run(settings, BASE, RESULTS, RAW, check=workflow.is_main_process)
except InputError as error:
    raise WorkflowError(str(error)) from None
config, PLAN, PATHS = RUN.config, RUN.plan, RUN.paths
if STORAGE:  # jobs elsewhere get these files with the workflow's own
    workflow.configfiles += RUN.tables
given = workflow.resource_settings  # the jobs of a group have their numbers added, names too
for owner in (given.default_resources, *given.overwrite_resources.values()):
    for key in ("slurm_partition", "slurm_account", "qos", "constraint"):
        if owner and key in owner and str(name := owner[key].raw).isdigit():
            fix = f"""write "'{name}'", or Snakemake takes it for a number and adds up a group's"""
            raise WorkflowError(f"profile: '{key}: {name}' is a name of digits; {fix}")
software = workflow.deployment_settings.deployment_method
if not software and shutil.which("quicknat") is None:
    raise WorkflowError("quicknat is not on PATH: source .venv/bin/activate, or use --sdm conda")
if DeploymentMethod.APPTAINER in software and not config["container"]:
    fix = "build an image with the Dockerfile, and --config container=docker://HOST/quicknat:0.1.0"
    raise WorkflowError(f"configuration: --sdm apptainer needs 'container': {fix}")


wildcard_constraints:
    scan=SCAN_NAME,
    chunk="[01]+|all",
    view="|".join(VIEWS),


def untracked(value):
    """Return a parameter whose changes rerun nothing, as for all functions of `output`."""
    return lambda wildcards, output: value


# parameters of rules that map labels: they depend on the table's classes, not on its path or colours
LABEL_TABLE = {"protocol": untracked(config["protocol"]), "classes": RUN.classes_digest}


def image_inputs(wildcards):
    """Return the raw files of a scan's image, which storage does not hold."""
    return [local(path) for path in PATHS.image_inputs(PLAN.scans[wildcards.scan])]


def label_inputs(wildcards):
    """Return the raw files of a scan's label map."""
    return [local(path) for path in PATHS.label_inputs(PLAN.scans[wildcards.scan])]


def row(key):
    """Return a parameter of a scan, one of `CohortPaths.row`.

    Snakemake's `lookup` would search all scans for each one: minutes for 2,000.
    """
    return lambda wildcards: PATHS.row(PLAN.scans[wildcards.scan])[key]


def conformed_labels(name):
    """Return the label map to train on: the given one, or else the automatic one."""
    kind = "" if PLAN.scans[name].labels else "_desc-auto"
    return f"<results>/scans/{name}/anat/{name}_space-conformed{kind}_dseg.nii.gz"


def archives(wildcards):
    """Return the lists of unpacked members that a chunk's scans are in."""
    scans = [PLAN.scans[name] for name in PLAN.chunks[wildcards.chunk]]
    found = [PATHS.image_inputs(scan) for scan in scans if not PATHS.in_place(scan.source)]
    return sorted({path for paths in found for path in paths})


def listed(wildcards):
    """Return the rows of a chunk's list: name, scan, orientation."""
    rows = {name: PATHS.row(PLAN.scans[name]) for name in PLAN.chunks[wildcards.chunk]}
    return [f"{name}\t{row['image']}\t{row['orientation']}" for name, row in rows.items()]


def stacks(names, kind=""):
    return expand("<results>/slices/{{view}}/{scan}{kind}.npy", scan=names, kind=kind)
