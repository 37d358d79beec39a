"""Name the inputs of the report, read its tables, and find the scans that a run has finished."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

import pandas as pd

from quicknat.cohort.check import Verdict
from quicknat.cohort.participants import PARTICIPANTS
from quicknat.cohort.sheet import LOCAL, Scan
from quicknat.errors import InputError
from quicknat.evaluation.scores import COLUMNS
from quicknat.failures import Failure
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.card import starts
from quicknat.report.structures import Structure, structures
from quicknat.reruns import file_digest
from quicknat.segmentation.tasks import SCANS
from quicknat.training.history import STAGES

VOLUMES = "segmentations/volumes.tsv"
# the per-scan tables from which a complete run gathers each table
GATHERED_FROM = {
    "metrics.tsv": "metrics/{0}.tsv",
    "metrics/views.tsv": "metrics/{0}_views.tsv",
    "metrics/confusion.tsv": "metrics/{0}_confusion.tsv",
    VOLUMES: "segmentations/{0}/anat/{0}_desc-quicknat_volumes.tsv",
}
# files of a segmented scan in the report; `dseg.json` names the model
ENDS = ("dseg.nii.gz", "dseg.json", "dseg.stats", "volumes.tsv", "qc.json")
DEMOGRAPHICS = ("age", "sex", "handedness")  # columns of a BIDS participants.tsv
MOST_ROWS = 1000  # of a table that has a row per scan or participant
NO_TIMES = pd.DataFrame(columns=["age", "date"], dtype=float)


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of the pages; files are in `results`, where the workflow put them."""

    title: str
    note: str
    results: Path
    scans: Sequence[Scan]
    segmented: Sequence[str]  # scans with a page; if jobs failed, only finished ones
    protocol: Protocol
    skipped: Sequence[Verdict] = ()  # scans that the run left out
    failed: Sequence[Failure] = ()  # jobs
    people: pd.DataFrame = field(default_factory=pd.DataFrame)  # of participants.tsv, by sub-X
    times: pd.DataFrame = field(default_factory=NO_TIMES.copy)  # of sessions
    given: str = ""  # name of the given model, if none was trained
    interactive: bool = False  # with viewer and sortable tables
    chunks: Sequence[Path] = ()  # folders of the tables of scans without a page

    @property
    def complete(self) -> bool:
        """Return whether no job failed, so that everything is available."""
        return not self.failed

    @property
    def paged(self) -> Sequence[str]:
        """Return the scans to whose pages there are links."""
        return self.segmented if self.complete else ()

    @cached_property
    def structures(self) -> Sequence[Structure]:
        """Structures of the protocol, in the order of the report."""
        return structures(self.protocol)

    @cached_property
    def volumes(self) -> pd.DataFrame | None:
        """Volumes of all segmented scans."""
        return self.table(VOLUMES)

    @cached_property
    def metrics(self) -> pd.DataFrame | None:
        """Scores of all test scans."""
        return self.table("metrics.tsv")

    @cached_property
    def participants(self) -> dict[str, str]:
        """Return the participant of each scan."""
        return {scan.id: scan.participant for scan in self.scans}

    @cached_property
    def histories(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Return the histories of the trained networks by stage and view, in order.

        Of a given model there are none, though an earlier run may have left some.
        """
        found: dict[tuple[str, str], pd.DataFrame] = {}
        for stage, view in product(STAGES, () if self.given else VIEWS):
            folder = self.results / "models" / stage / view
            stale = stage == "pretrain" and not self._led_to_model(folder)
            if (path := folder / "history.tsv").exists() and not stale:
                found[stage, view] = pd.read_csv(path, sep="\t")
        return found

    def _led_to_model(self, folder: Path) -> bool:
        """Return whether the model's network began with this one, as far as files are there."""
        bundle, weights = self.results / "model/bundle.json", folder / "model.safetensors"
        if not (bundle.exists() and weights.exists()):
            return True
        entry = json.loads(bundle.read_bytes())["views"][folder.name]
        return sha256(weights) in starts(entry)

    def table(self, path: str) -> pd.DataFrame | None:
        """Return a table of all scans, or None.

        If jobs failed it is gathered again, since the existing one may be from an earlier run. So
        may scores if there is no test scan any more.

        Raises:
            InputError: a table of scores lacks a column.
        """
        if (table := self._gathered(path)) is None:
            return None
        columns = COLUMNS.get(Path(path).stem, [])
        if lacking := [column for column in columns if column not in table]:
            problem = f"lacks {', '.join(lacking)}: an earlier version made it"
            raise InputError(self.results / path, problem, "run snakemake again with -R evaluate")
        return table

    def _gathered(self, path: str) -> pd.DataFrame | None:
        scored = {scan.id for scan in self.scans if scan.split == "test"}
        names = [n for n in self.segmented if n in scored or not path.startswith("metrics")]
        if self.complete:
            file = self.results / path
            wanted = names or (self.chunks and path == VOLUMES)
            table = pd.read_csv(file, sep="\t") if wanted and file.exists() else pd.DataFrame()
            return None if table.empty else table  # of no scan, if those of all chunks are bad
        files = {name: self.results / GATHERED_FROM[path].format(name) for name in names}
        parts = [pd.read_csv(file, sep="\t").assign(subject=name) for name, file in files.items()]
        if path == VOLUMES:
            parts += [pd.read_csv(chunk / "volumes.tsv", sep="\t") for chunk in self.chunks]
        return pd.concat(parts, ignore_index=True) if parts else None

    @property
    def columns(self) -> list[str]:
        """Return the available demographic columns."""
        return [name for name in DEMOGRAPHICS if name in self.people]

    def known(self, scan: Scan) -> dict[str, str]:
        """Return the demographics of a scan's subject, n/a where unknown."""
        rows = self.people[self.columns].reindex([f"sub-{scan.subject}"]).fillna("n/a")
        return dict(rows.iloc[0])

    def files(self, scan: str) -> dict[str, Path]:
        """Return the files of a segmented scan, by the suffixes of their names."""
        folder = self.results / "segmentations" / scan / "anat"
        start = f"{scan}_desc-"
        return {path.name.removeprefix(start): path for path in sorted(folder.glob(f"{start}*"))}


def cohort_files(sheet: str | Path) -> dict[str, Path]:
    """Return where optional files of a cohort are: beside its sheet.

    ``note``: how to read its scores. ``participants``: of BIDS, with age, sex, handedness.
    ``sessions``: age or date of each.
    """
    sheet = Path(sheet)
    return {
        "note": sheet.with_suffix(".md"),
        "participants": sheet.with_name(PARTICIPANTS),
        "sessions": sheet.with_name("sessions.tsv"),
    }


def read_note(path: str | Path) -> str:
    """Return a cohort's note, a text file in UTF-8.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = f"cannot be read as text ({error})"
        raise InputError(path, problem, "save it as text in UTF-8") from error


def session_tables(scans: Iterable[Scan], sheet: str | Path) -> dict[Path, list[Scan]]:
    """Return the tables of sessions in the subjects' BIDS folders, each with its scans.

    That of ``sub-01/ses-1/anat/…`` is ``sub-01/sub-01_sessions.tsv``; paths are relative to the
    sheet. Sources other than local files have none.
    """
    found: dict[Path, list[Scan]] = defaultdict(list)
    for scan in (scan for scan in scans if scan.session and scan.source == LOCAL):
        folders = Path(sheet).parent.joinpath(scan.image).parents
        for folder in folders:
            if folder.name.startswith("sub-"):
                found[folder / f"{folder.name}_sessions.tsv"].append(scan)
    return {path: those for path, those in found.items() if path.is_file()}


def complete_scans(
    results: str | Path, names: Sequence[str], tested: Collection[str] = ()
) -> list[str]:
    """Return the scans with all files for the report, made with the current model.

    After an incomplete run, segmentations may be of the previous model, and scores and pictures of
    previous segmentations; such scans are not complete. Those in `tested` have scores.
    """
    results = Path(results)
    model = file_digest(results / "model/bundle.json")

    def is_complete(name: str) -> bool:
        files = [results / f"segmentations/{name}/anat/{name}_desc-quicknat_{end}" for end in ENDS]
        if not all(file.is_file() for file in files):
            return False
        labels, provenance, *_ = files
        try:
            made_with = json.loads(provenance.read_bytes())["model"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        later = [results / f"report/figures/{name}/thumbnail.jpg"]
        later += [results / f"metrics/{name}.tsv"] if name in tested else []
        return made_with == model and all(_is_made_from(labels, file) for file in later)

    return [name for name in names if is_complete(name)]


def complete_chunks(results: str | Path, chunks: Sequence[str]) -> list[Path]:
    """Return the folders of the chunks that were finished after the current model was made."""
    model = Path(results, "model/bundle.json")
    tables = [Path(results, "chunks", chunk, SCANS) for chunk in chunks]
    return [table.parent for table in tables if _is_made_from(model, table)]


def _is_made_from(source: Path, file: Path) -> bool:
    """Return whether both files exist, and `file` is not older than what it is made from."""
    there = source.is_file() and file.is_file()
    return there and file.stat().st_mtime >= source.stat().st_mtime
