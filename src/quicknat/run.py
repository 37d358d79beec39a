"""Load what the workflow needs before it starts: settings, model, sheet, sources and check."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicknat.cohort.check import BAD, Verdict, check_cohort, read_verdicts, require_usable_scans
from quicknat.cohort.examine import Finding, read_cache
from quicknat.cohort.participants import trained_on
from quicknat.cohort.paths import CohortPaths
from quicknat.cohort.sheet import examine_sheet, read_sources
from quicknat.config import Config, Network, check_consistency
from quicknat.errors import InputError
from quicknat.files import as_tsv, check_temporary_folder
from quicknat.hardware import available_cpus
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import BUNDLE_FILES, read_description, require_files
from quicknat.model.description import TrainedNetwork
from quicknat.package_data import MODELS, label_table
from quicknat.plan import Plan, chunked, plan
from quicknat.reruns import LOOKS, stable_path, table_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Everything that the rules of a run need."""

    config: dict[str, Any]  # with defaults and the settings of a given model filled in
    plan: Plan
    paths: CohortPaths  # locations of the cohort's files
    sources: str  # path of the sources table
    model: str  # folder of the given model, "" if one is trained
    initial: str  # folder of the model that training starts from, "" for random weights
    label_table_digest: str  # rules compare it instead of the table's path
    classes_digest: str  # the same without colours and abbreviations, which affect no label map
    check: Path  # table of the check; verdicts and findings are written when a run starts
    verdicts: Sequence[Verdict]
    findings: dict[str, Finding]

    @property
    def tables(self) -> list[str]:
        """Files that every job reads: sheet, sources, and those given by path."""
        own = [] if self.config["model"] in MODELS else [f"{self.model}/bundle.json"]
        given = [Path(path) for path in (self.config["protocol"], *own)]
        return [self.paths.sheet, self.sources, *(str(path) for path in given if path.is_file())]

    @property
    def skipped(self) -> dict[str, str]:
        """Scans that are left out, with the reasons."""
        return {v.scan: v.reason for v in self.verdicts if v.verdict == BAD}

    @property
    def skipped_table(self) -> str:
        """Their rows of the check's table, which nobody writes where the workflow is a module."""
        return as_tsv(Verdict, [v for v in self.verdicts if v.verdict == BAD])


def load_run(config: Mapping[str, Any], base: str, results: str, raw: str, check: bool) -> Run:
    """Read and check everything that a run depends on; write nothing.

    Args:
        config: settings; those with a default may be missing.
        base: the workflow's folder. Paths in `config` are searched for in the current folder, then
            there.
        results, raw: folders of the run.
        check: whether to check the cohort's files. Jobs use the verdicts from the start of the run.

    Raises:
        InputError: names the first problem.
    """
    chosen = Config.read(config, notify=log.warning if check else None)  # jobs need not repeat it
    if check:
        check_temporary_folder()
    model = _model_path(chosen.model, base)
    if model:
        given = given_settings(model, chosen.protocol)
        chosen = Config.read(chosen.model_dump() | given)
    check_consistency(chosen)
    sheet, sources = _find(chosen.sheet, base), _find(chosen.sources, base)
    here = Path(base).samefile(Path.cwd())
    auto = "segment" if model else ""
    paths = CohortPaths(sheet, read_sources(sources), raw, "" if here else base, auto)
    if model and check:
        require_usable(model, chosen.protocol, own=f"{results}/model")
    Protocol.read(table := label_table(chosen.protocol))  # raises if it is invalid
    checked = Path(f"{results}/check.tsv")
    findings: dict[str, Finding] = {}
    verdicts: list[Verdict] = []
    scans, faults = examined = examine_sheet(sheet, auto)
    # jobs read which scans to skip; in a module no handler writes that table
    if not check and chosen.on_bad_scan == "skip" and checked.exists():
        verdicts = read_verdicts(checked)
    elif check or chosen.on_bad_scan == "skip":
        findings = read_cache(checked)
        threads = min(4, available_cpus())  # not more: this may be a cluster's login node
        # scans of chunks are only located: reading 50,000 takes hours, and their jobs do it
        unread = {name for names in chunked(chosen, scans).values() for name in names}
        verdicts, faulty = check_cohort(paths, table, findings, threads, examined, unread)
        require_usable_scans(verdicts, faulty, sheet, chosen.on_bad_scan)
    if faults:
        raise faults[0].error
    initial = _model_path(chosen.training.initial_model, base)
    for folder in filter(None, (model, initial) if check else ()):
        described = Path(folder, "bundle.json").exists()  # initial weights need no description
        views = read_description(folder)["views"].values() if described else ()
        if not model:
            require_same_network(views, chosen.network)
        if warning := trained_on(views, scans):
            log.warning("%s: %s", folder, warning)
    skipped = [verdict.scan for verdict in verdicts if verdict.verdict == BAD]
    return Run(
        chosen.model_dump(),
        plan(chosen, scans, skipped),
        paths,
        sources,
        model,
        initial,
        table_digest(table),
        table_digest(table, without=LOOKS),
        checked,
        verdicts,
        findings,
    )


def require_same_network(views: Iterable[Mapping[str, Any]], network: Network) -> None:
    """Refuse initial weights of another network before anything is computed.

    Args:
        views: entries of the initial model's ``bundle.json``.
        network: of this run; it may see more slices.

    Raises:
        InputError: names the first setting that differs.
    """
    for initial in (TrainedNetwork(**entry["network"]) for entry in views):
        for key in ("filters", "squeeze_excitation", "slices"):
            own, theirs = getattr(network, key), getattr(initial, key)
            if own != theirs and not (key == "slices" and own > theirs):
                problem = f"'network.{key}' is {own}, but {theirs} in 'training.initial_model'"
                raise InputError("configuration", problem, f"set it to {theirs}")


def require_for_storage(config: Mapping[str, Any]) -> None:
    """Refuse settings that need a disk shared by all jobs.

    Raises:
        InputError: names the first such setting.
    """
    training = config.get("training") or {}
    for name, unusable, fix in (
        ("on_bad_scan", config.get("on_bad_scan") == "skip", "set split: exclude in the sheet"),
        ("training.new_scans", training.get("new_scans") == "warm_start", "set it to retrain"),
        ("training.initial_model", bool(training.get("initial_model")), "leave it out"),
    ):
        if unusable:
            problem = f"'{name}' needs a disk that all jobs share, not --default-storage-provider"
            raise InputError("configuration", problem, fix)


def _find(path: str, base: str) -> str:
    """Return a path if it exists, else the path in the workflow's folder."""
    found = Path(path).exists() or Path(base).samefile(Path.cwd())
    return path if found else str(Path(base, path))


def _model_path(name: str, base: str) -> str:
    """Return the folder of a model given by bundled name or path; "" for none."""
    return stable_path(MODELS[name]) if name in MODELS else name and _find(name, base)


def given_settings(folder: str | Path, protocol: str) -> dict[str, Any]:
    """Return what an existing model determines of a run: sections of the configuration.

    `protocol`, the configured label table, is kept if it has the name of the model's. Raises
    :class:`InputError` if `folder` is no model folder; its other files are not read.
    """
    described = read_description(folder)
    own = described["protocol"]
    passes = {"flip": described["mirror"]}
    passes |= {key: described[key] for key in ("shift", "prior_correction")}
    return {
        "protocol": protocol if Path(protocol).stem == own else own,
        "conform": {key: described["conform"][key] for key in ("spacing_mm", "size")},
        "slices": {"size": described["slices"]["size"]},
        "aggregation": {view: described["aggregation"][view] for view in VIEWS} | passes,
    }


def require_usable(folder: str | Path, protocol: str | Path, own: str | Path) -> None:
    """Refuse an unusable model before anything is computed with it.

    Raises:
        InputError: a missing or changed file, another label table than `protocol` (name or path),
            or `own`, the folder that the run copies the model to.
    """
    folder = Path(folder)
    if folder.resolve() == Path(own).resolve():
        fix = "copy it to another folder first: this workflow writes there"
        raise InputError("configuration", f"'model' is {folder}", fix)
    require_files(folder, read_description(folder), BUNDLE_FILES)
    try:
        table = label_table(protocol)
    except InputError as error:
        problem = f"is a model for the label table '{protocol}', which is not bundled"
        fix = f"copy its labels.tsv to {protocol}.tsv, and set 'protocol' to that path"
        raise InputError(folder, problem, fix) from error
    if Protocol.read(path := folder / "labels.tsv").names != Protocol.read(table).names:
        fix = "restore the table that the model was trained with"
        raise InputError(path, f"has different structures than {table}", fix)
