# What all rules share: the checked configuration, the cohort, and where its files are.
# Requires: config.yaml, the sheet and the sources table, all three checked against their schemas.
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config, validate

from quicknat.cohort.check import check_for_workflow
from quicknat.cohort.findings import read_cache
from quicknat.cohort.verdicts import BAD, read_verdicts
from quicknat.cohort.paths import Places
from quicknat.cohort.sheet import pretraining, read_sheet, read_sources
from quicknat.errors import InputError
from quicknat.model.bundle import BUNDLE_FILES, given_settings, require_usable
from quicknat.package_data import MODELS, TEMPLATES, label_table, schema_path
from quicknat.reruns import GRID_FORMAT, LOOKS, deciding, file_digest, stable_path
from quicknat.reruns import stage_settings, table_digest
from quicknat.config import check_consistency
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.schema import check, load_schema
from quicknat.training.trained import MODEL_FILES, require_fit, trained_stages, untrained_scans

# where downloads go; other workflows of MONAI users keep theirs there too
RAW = os.path.normpath(os.environ.get("MONAI_DATA_DIRECTORY") or "results/raw")
SCAN_NAME = r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?"
NOTHING = "none"  # constrains a wildcard to no value that occurs
CONFORMED = "results/scans/{scan}/anat/{scan}_space-conformed_T1w.nii.gz"
CHECKED = Path("results/check.tsv")  # with the cache of the check beside it
BUNDLED = [f"results/model/{name}" for name in BUNDLE_FILES]  # bundled or copied
DEMO_HEADS = ("CSI1", "CSI2")  # that the demo cohort deforms


def in_workflow(path):
    """A path of the workflow's own files, relative where possible so that results can move."""
    base = Path(workflow.basedir)
    return path if base.samefile(Path.cwd()) or os.path.isabs(path) else str(base / path)


def scans(*uses):
    """Names of the scans with any of these uses, sorted."""
    return [name for name, scan in SCANS.items() if scan.use in uses]


def refuse(problem, allowed):
    raise InputError("configuration", problem, f"allowed: {', '.join(allowed)}")


def model_path(name):
    """The folder of a bundled model, or of one that the configuration names by its path."""
    return stable_path(MODELS[name]) if name in MODELS else name and in_workflow(name)


try:
    check(config, load_schema("config"), "configuration")
    validate(config, str(schema_path("config")))  # fills in the defaults
    MODEL = model_path(config["model"])
    update_config(config, given_settings(MODEL, config["protocol"]) if MODEL else {})
    check_consistency(config)
    SHEET, SOURCES_TABLE = in_workflow(config["sheet"]), in_workflow(config["sources"])
    PEOPLE = os.path.join(os.path.dirname(SHEET), "participants.tsv")  # ages and the like
    COHORT_NOTE = os.path.splitext(SHEET)[0] + ".md"  # what the cohort's scores do and do not mean
    SOURCES = read_sources(SOURCES_TABLE)
    PROTOCOL = config["protocol"]  # a name, or a path
    if MODEL and workflow.is_main_process:
        require_usable(MODEL, PROTOCOL, own="results/model")
    Protocol.read(table := label_table(PROTOCOL))  # refuses what is none
    # rules compare what is in a table, not where it is; and no label map depends on its colours
    PROTOCOL_DIGEST, CLASSES = table_digest(table), table_digest(table, without=LOOKS)
    PLACES = Places(SHEET, SOURCES, RAW, in_workflow(""))
    if workflow.is_main_process:  # `onstart` writes the verdicts and the cache
        FINDINGS = read_cache(CHECKED)
        threads = min(4, os.cpu_count() or 1)  # no more: this may be a cluster's head node
        VERDICTS = check_for_workflow(PLACES, table, FINDINGS, threads, config["on_bad_scan"])
    else:  # a job, which leaves out what was found then
        VERDICTS = read_verdicts(CHECKED) if config["on_bad_scan"] == "skip" else []
    SKIPPED = {v.scan: v.reason for v in VERDICTS if v.verdict == BAD}
    SCANS = {scan.id: scan for scan in read_sheet(SHEET) if scan.id not in SKIPPED}
    SEGMENTED = scans("test", "segment")
    new_scans = config["training"]["new_scans"]
    trained = [] if MODEL else trained_stages("results/models")
    KEPT = new_scans == "freeze" and "finetune" in trained  # then models are files like others
    FROZEN = KEPT or MODEL != ""  # nothing is trained
    if KEPT:
        require_fit("results/model/bundle.json", config)
    elif MODEL and not SEGMENTED:
        raise InputError(SHEET, "no scan has use=segment or test", "name scans to segment")
    elif not MODEL and not scans("train"):
        fix = "name scans with labels, or a finished model: model=1mm"
        raise InputError(SHEET, "no scan has use=train", fix)
    WAITING = untrained_scans("results/models/finetune", scans("train")) if KEPT else []
    PRETRAIN_IMAGES, PRETRAIN_MAPS = pretraining({} if MODEL else SCANS, config.get("pretrain", {}))
    STAGES = ["pretrain", "finetune"] if PRETRAIN_IMAGES + PRETRAIN_MAPS else ["finetune"]
    STAGES = trained if FROZEN else STAGES
    if not FROZEN and STAGES[0] not in config:
        raise InputError("configuration", "'pretrain' is missing", "the sheet has pretrain scans")
    INITIAL = model_path(config["training"]["initial_model"])  # where its first stage starts from
    INITIAL = [f"{INITIAL}/{{view}}.safetensors"] if INITIAL else []
    SETTINGS = {s: json.dumps(stage_settings(config, s)) for s in STAGES if s in config}
    WARM_START_EPOCHS = config["training"]["warm_start_epochs"] * (new_scans == "warm_start")
    LABEL_METHOD = config["auto_labels"]["method"]
    UNLABELLED = [name for name in PRETRAIN_IMAGES if not (SCANS[name].labels or FROZEN)]
    ATLASES = config["auto_labels"]["atlases"] if UNLABELLED and LABEL_METHOD == "atlas" else []
    if UNLABELLED and LABEL_METHOD == "atlas" and not ATLASES or set(ATLASES) - set(scans("train")):
        problem = f"{UNLABELLED[0]} has no labels, and 'auto_labels.atlases' is {ATLASES}"
        refuse(problem, scans("train"))
    if UNLABELLED and LABEL_METHOD == "precomputed":
        problem = f"{UNLABELLED[0]} has no labels, and 'auto_labels.method' is precomputed"
        raise InputError(SHEET, problem, "name its labels, or choose another method")
except InputError as error:
    raise WorkflowError(str(error)) from None

ARCHIVES = [name for name, row in SOURCES.items() if row["kind"] not in ("local", "demo")]


wildcard_constraints:
    scan=SCAN_NAME,
    view="|".join(VIEWS),
    source="|".join(ARCHIVES) or NOTHING,
    head="|".join(DEMO_HEADS),
    number=r"\d+",


def untracked(value):
    """A parameter that reruns nothing when it changes, like all that are derived from outputs."""
    return lambda wildcards, output: value


def conformed_labels(name):
    """Label map to train on: the given one, else the automatic one."""
    kind = "" if SCANS[name].labels else "_desc-auto"
    return f"results/scans/{name}/anat/{name}_space-conformed{kind}_dseg.nii.gz"


def stacks(names, kind=""):
    return expand("results/slices/{{view}}/{scan}{kind}.npy", scan=names, kind=kind)


def training_threads(wildcards):
    """The views share the cores, unless a profile says otherwise."""
    return max(1, (workflow.cores or 1) // len(VIEWS))
