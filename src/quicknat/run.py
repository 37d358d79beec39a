"""Load what the workflow needs before it starts: settings, model, sheet, sources and check."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicknat.cohort.check import BAD, Verdict, check_for_workflow, read_verdicts
from quicknat.cohort.examine import Finding, read_cache
from quicknat.cohort.paths import CohortPaths
from quicknat.cohort.sheet import read_sheet, read_sources
from quicknat.config import Config, check_consistency
from quicknat.images.labels import Protocol
from quicknat.model.given_model import given_settings, require_usable
from quicknat.package_data import MODELS, label_table
from quicknat.plan import Plan, plan
from quicknat.reruns import LOOKS, stable_path, table_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Everything that the rules of a run need.

    Attributes:
        config: settings, with defaults and the settings of a given model filled in.
        plan: what to do.
        paths: locations of the cohort's files.
        sources: path of the sources table.
        model: folder of the given model, "" if one is trained.
        initial: folder of the model that training starts from, "" for random weights.
        label_table: digest of the label table, which rules compare instead of its path.
        classes: the same without colours and abbreviations, which do not affect label maps.
        check: path of the check's table; verdicts and findings are written when a run starts.
    """

    config: dict[str, Any]
    plan: Plan
    paths: CohortPaths
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
        """Scans that are left out, with the reasons."""
        return {v.scan: v.reason for v in self.verdicts if v.verdict == BAD}


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
    model = _model_path(chosen.model, base)
    if model:
        given = given_settings(model, chosen.protocol)
        chosen = Config.read(chosen.model_dump() | given)
    check_consistency(chosen)
    sheet, sources = _find(chosen.sheet, base), _find(chosen.sources, base)
    here = Path(base).samefile(Path.cwd())
    paths = CohortPaths(sheet, read_sources(sources), raw, "" if here else base)
    if model and check:
        require_usable(model, chosen.protocol, own=f"{results}/model")
    Protocol.read(table := label_table(chosen.protocol))  # raises if it is invalid
    checked = Path(f"{results}/check.tsv")
    findings: dict[str, Finding] = {}
    verdicts: list[Verdict] = []
    # jobs read which scans to skip; in a module no handler writes that table
    if not check and chosen.on_bad_scan == "skip" and checked.exists():
        verdicts = read_verdicts(checked)
    elif check or chosen.on_bad_scan == "skip":
        findings = read_cache(checked)
        threads = min(4, os.cpu_count() or 1)  # not more: this may be a cluster's login node
        verdicts = check_for_workflow(paths, table, findings, threads, chosen.on_bad_scan)
    skipped = [verdict.scan for verdict in verdicts if verdict.verdict == BAD]
    return Run(
        chosen.model_dump(),
        plan(chosen, read_sheet(sheet), skipped),
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
    """Return a path if it exists, else the path in the workflow's folder."""
    found = Path(path).exists() or Path(base).samefile(Path.cwd())
    return path if found else str(Path(base, path))


def _model_path(name: str, base: str) -> str:
    """Return the folder of a model given by bundled name or path; "" for none."""
    return stable_path(MODELS[name]) if name in MODELS else name and _find(name, base)
