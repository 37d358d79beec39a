"""Tables of what ``peers.py`` has measured: each network against ours, participant by participant.

    python benchmarks/accuracy/peers_report.py /scratch/peers --ours quicknat-scratch

Prints Markdown, and writes the mean Dice of each structure to ``structures.tsv`` in that folder.
Means are over the participants that a network and ours both have, each the mean of its structures;
differences are the network's less ours, with a 95 % bootstrap interval over participants.
"""

from __future__ import annotations

import json
from collections import ChainMap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from quicknat.evaluation.scores import by_scan, interval, participants_of
from quicknat.files import written_whole

VARIANTS = {
    "": "",
    "_coronal": ", coronal view alone",
    "_unweighted": ", 40 % prior correction",
}
MEASURES = {"dice": "Dice", "hd95_mm": "HD95, mm", "volume_error": "volume error"}
DIGITS = {"dice": ".4f", "hd95_mm": ".2f", "volume_error": ".1%"}


@dataclass(frozen=True)
class Entry:
    """One network, or one of its views: scores and facts of all its folds."""

    metrics: pd.DataFrame
    facts: list[dict]
    coronal: bool

    def views(self) -> list[dict[str, dict]]:
        """Facts of the views that it uses, by fold."""
        return [
            {view: found for view, found in fold["views"].items() if view == "coronal"}
            if self.coronal
            else fold["views"]
            for fold in self.facts
        ]

    def mean(self, fact: str) -> float:
        """Of a fact summed over the views, over the folds."""
        sums = [sum(found[fact] for found in views.values()) for views in self.views()]
        return sum(sums) / len(sums)

    def participants(self) -> pd.Series:
        """Participant of each scan."""
        known = dict(ChainMap(*(fold["persons"] for fold in self.facts)))
        return participants_of(self.metrics["subject"], known)

    def by_participant(self) -> pd.DataFrame:
        """A row per participant: means of the measures."""
        table = by_scan(self.metrics)
        known = dict(zip(self.metrics["subject"], self.participants(), strict=True))
        return table.groupby(table["subject"].map(known))[list(MEASURES)].mean()


def read_entries(output: Path) -> dict[str, Entry]:
    """All networks that have finished folds, by the name that they get in the tables."""
    entries = {}
    for peer in sorted({facts.parents[1] for facts in output.glob("*/*/facts.json")}):
        folds = sorted(facts.parent for facts in peer.glob("*/facts.json"))
        facts = [json.loads((fold / "facts.json").read_text()) for fold in folds]
        for suffix, words in VARIANTS.items():
            tables = [fold / f"metrics{suffix}.tsv" for fold in folds]
            if all(table.exists() for table in tables):
                metrics = pd.concat(
                    (pd.read_csv(table, sep="\t") for table in tables), ignore_index=True
                )
                entries[peer.name + words] = Entry(metrics, facts, suffix == "_coronal")
    return entries


def difference(theirs: pd.Series, ours: pd.Series, digits: str) -> str:
    """Mean difference over the participants of both, and its interval."""
    gain = (theirs - ours).dropna()
    low, high = interval(gain)
    return f"{gain.mean():+{digits}} ({low:+{digits}} to {high:+{digits}})"


def tell(entries: dict[str, Entry], ours: str) -> None:
    """A row per network: what it is, and what it took; then a row per network with its scores."""
    print("| network | folds | views | parameters, million | training, s | wall clock, s | steps |")
    print("|-|-|-|-|-|-|-|")
    for name, entry in entries.items():
        known = all("steps" in found for views in entry.views() for found in views.values())
        steps = f"{entry.mean('steps'):,.0f}" if known else ""
        print(
            f"| {name} | {len(entry.facts)} | {', '.join(entry.views()[0])} "
            f"| {entry.mean('parameters') / 1e6:.2f} | {entry.mean('seconds'):.0f} "
            f"| {entry.mean('wall_seconds'):.0f} | {steps} |"
        )
    reference = entries[ours].by_participant()
    heads = [f"{words} | less {ours}'s" for words in MEASURES.values()]
    print(f"\n| network | participants | {' | '.join(heads)} | structures missed |")
    print("|-|-|-|-|-|-|-|-|-|")
    for name, entry in entries.items():
        people = entry.by_participant()
        people = people[people.index.isin(reference.index)]
        cells = [name, str(len(people))]
        for measure, digits in DIGITS.items():
            cells.append(f"{people[measure].mean():{digits}}")
            same = name == ours
            cells.append("" if same else difference(people[measure], reference[measure], digits))
        # a distance needs both label maps, so those that lack a structure cost none
        missed = (entry.metrics["volume_mm3"] == 0) & (entry.metrics["reference_mm3"] > 0)
        print(f"| {' | '.join([*cells, str(missed.sum())])} |")


def structures(entries: dict[str, Entry]) -> pd.DataFrame:
    """Mean Dice over participants: a row per structure, a column per network."""
    columns = {}
    for name, entry in entries.items():
        metrics = entry.metrics.assign(participant=entry.participants())
        people = metrics.groupby(["structure", "participant"], sort=False)["dice"].mean()
        columns[name] = people.groupby("structure", sort=False).mean()
    return pd.DataFrame(columns)


def main(
    output: Annotated[Path, typer.Argument(help="The --output of peers.py.")],
    ours: Annotated[str, typer.Option(help="What to compare with.")] = "quicknat-scratch",
) -> None:
    """Compare all networks of a folder with ours."""
    entries = read_entries(output)
    if ours not in entries:
        raise SystemExit(f"{output}: has no {ours}; run peers.py --peer quicknat")
    tell(entries, ours)
    with written_whole(output / "structures.tsv") as (temporary,):
        table = structures(entries)
        table.to_csv(temporary, sep="\t", float_format="%.4f", index_label="structure")


if __name__ == "__main__":
    typer.run(main)
