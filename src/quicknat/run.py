"""What the workflow reads before it starts: settings, model, sheet, sources, and the check."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicknat.cohort.check import BAD, Verdict, check_for_workflow, read_verdicts
from quicknat.cohort.examine import Finding, read_cache
from quicknat.cohort.paths import Places
from quicknat.cohort.sheet import read_sheet, read_sources
from quicknat.config import Config, check_consistency
from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import BUNDLE_FILES, read_description, require_files
from quicknat.package_data import MODELS, label_table
from quicknat.plan import Plan, plan
from quicknat.records import as_tsv
from quicknat.reruns import LOOKS, stable_path, table_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """All that the rules of a run need to know.

    Attributes:
        config: with defaults filled in, and with what a given model decides.
        plan: what to do.
        paths: where the cohort's files are; `sources`: the path of the table of sources.
        model: folder of the given model, "" where one is trained.
        initial: folder of the model that training starts from, "" for random weights.
        label_table: what the label table holds; `classes` without its colours, on which no label
            map depends. Rules compare these and not where the table is.
        check: path of the check's table; its verdicts and findings are written when a run begins.
    """

    config: dict[str, Any]
    plan: Plan
    paths: Places
    sources: str
    model: str
    initial: str
    label_table: str
    classes: str
    check: Path
    verdicts: Sequence[Verdict]
    findings: dict[str, Finding]

    @property
    def skipped(self) -> dict[str, str]:
        """Scans that are left out, each with the reason."""
        return {v.scan: v.reason for v in self.verdicts if v.verdict == BAD}

    @property
    def skipped_table(self) -> str:
        """Their rows of the check's table, which nobody writes where the workflow is a module."""
        return as_tsv(Verdict, [v for v in self.verdicts if v.verdict == BAD])


def load_run(config: Mapping[str, Any], base: str, results: str, raw: str, check: bool) -> Run:
    """Read and check everything that a run depends on; write nothing.

    Args:
        config: settings, in which those with a default may be missing.
        base: the workflow's folder. Paths in `config` are looked for in the current folder, then
            there.
        results, raw: folders of the run.
        check: whether to look into the cohort's files. A job takes the verdicts that the run was
            started with.

    Raises:
        InputError: naming the first thing that is wrong.
    """
    chosen = Config.read(config, notify=log.warning if check else None)  # jobs need not repeat it
    model = _model_path(chosen.model, base)
    if model:
        given = given_settings(model, chosen.protocol)
        chosen = Config.read(chosen.model_dump() | given)
    check_consistency(chosen)
    sheet, sources = _find(chosen.sheet, base), _find(chosen.sources, base)
    here = Path(base).samefile(Path.cwd())
    auto = "segment" if model else ""
    paths = Places(sheet, read_sources(sources), raw, "" if here else base, auto)
    if model and check:
        require_usable(model, chosen.protocol, own=f"{results}/model")
    Protocol.read(table := label_table(chosen.protocol))  # refuses what is none
    checked = Path(f"{results}/check.tsv")
    findings: dict[str, Finding] = {}
    verdicts: list[Verdict] = []
    # a job reads which scans the run skips, unless nobody wrote it down: no handlers in a module
    if not check and chosen.on_bad_scan == "skip" and checked.exists():
        verdicts = read_verdicts(checked)
    elif check or chosen.on_bad_scan == "skip":
        findings = read_cache(checked)
        threads = min(4, os.cpu_count() or 1)  # no more: this may be a cluster's head node
        verdicts = check_for_workflow(paths, table, findings, threads, chosen.on_bad_scan)
    skipped = [verdict.scan for verdict in verdicts if verdict.verdict == BAD]
    return Run(
        chosen.model_dump(),
        plan(chosen, read_sheet(sheet, auto), skipped),
        paths,
        sources,
        model,
        _model_path(chosen.training.initial_model, base),
        table_digest(table),
        table_digest(table, without=LOOKS),
        checked,
        verdicts,
        findings,
    )


def _find(path: str, base: str) -> str:
    """Return a path as it is where it leads somewhere, else as one in the workflow's folder."""
    found = Path(path).exists() or Path(base).samefile(Path.cwd())
    return path if found else str(Path(base, path))


def _model_path(name: str, base: str) -> str:
    """Return the folder of a bundled model, or of one that is named by its path; "" for none."""
    return stable_path(MODELS[name]) if name in MODELS else name and _find(name, base)


def given_settings(folder: str | Path, protocol: str) -> dict[str, Any]:
    """Return what a finished model decides about a run: sections of the configuration.

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
    """Refuse a finished model before anything is computed with it.

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
        problem = f"is a model for the label table '{protocol}', which is no bundled one"
        fix = f"copy its labels.tsv to {protocol}.tsv, and set 'protocol' to that path"
        raise InputError(folder, problem, fix) from error
    if Protocol.read(path := folder / "labels.tsv").names != Protocol.read(table).names:
        fix = "put the table that it was trained with there"
        raise InputError(path, f"has other structures than {table}", fix)
