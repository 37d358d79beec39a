"""Participants: their table, and warnings where one may be both trained and tested on."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from quicknat.cohort.naming import letters_and_digits, name_parts, possible_visits, subject_label
from quicknat.cohort.sheet import Scan, read_table, side
from quicknat.errors import InputError, notice

PARTICIPANTS = "participants.tsv"
NAMED = 3  # examples in a message
# data sets of the same people, by the names of their subjects in our sheets. All 35 scans of MALC
# are of OASIS-1 participants; they are among the 45 training scans in the README of SLANT
# (github.com/MASILab/SLANTbrainSeg, and its issue 1)
SAME_PEOPLE = {"MALC": r"MALC\d", "OASIS-1": r"OAS1\d{4}"}


def read_participants(path: str | Path, subjects: Sequence[str] = ()) -> pd.DataFrame:
    """Read a BIDS ``participants.tsv`` as text, indexed by ``participant_id``; empty is "n/a".

    Decimal commas become points. Of several rows of a participant, one for each session, the first
    counts. Ids may lack ``sub-``, and be written unlike the sheet's `subjects`, whose spelling they
    get: ``002_S_0413``, or without leading zeros.

    Raises:
        InputError: the file is not a table, has no such column, or has an id in two rows.
    """
    table = read_table(path).dropna(how="all").fillna("n/a")
    if "participant_id" not in table:
        fix = "give the column of 'sub-…' this name, as in BIDS"
        raise InputError(path, "has no column 'participant_id'", fix)
    _use_decimal_points(table)
    names = [name_parts(name.strip())[0] for name in table["participant_id"]]
    ids = zip(table["participant_id"], spelled_as(names, subjects), strict=True)
    table["participant_id"] = ["n/a" if given == "n/a" else f"sub-{name}" for given, name in ids]
    twice = table["participant_id"][table["participant_id"].duplicated()]
    if len(twice) and "session_id" in table:
        notice(f"{path}: has rows for several sessions; each participant's first is used")
        table = table.drop_duplicates("participant_id")
    elif len(twice):
        problem = f"has participant_id '{twice.iloc[0]}' in two rows"
        raise InputError(path, problem, "keep one row per participant")
    return table.set_index("participant_id")


def spelled_as(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return names as `wanted` has them, where only case and leading zeros differ."""
    ours, theirs = _by_spelling(names), _by_spelling(wanted)
    found = []
    for name in names:
        spelling = _spelling(name)
        unique = len(ours[spelling]) == len(theirs[spelling]) == 1
        found.append(next(iter(theirs[spelling])) if unique else name)
    return found


def _spelling(subject: str) -> str:
    """Return a subject's name without case and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", subject.lower())


def _by_spelling(subjects: Sequence[str]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for subject in subjects:
        groups[_spelling(subject)].add(subject)
    return groups


def _use_decimal_points(table: pd.DataFrame) -> None:
    """Replace decimal commas in columns of numbers, and log a notice."""
    for name in table:
        cells = table[name][table[name] != "n/a"]
        if cells.str.contains(",").any() and cells.str.fullmatch(r"-?\d+(,\d+)?").all():
            notice(f"column '{name}': decimal commas are read as decimal points")
            table[name] = table[name].str.replace(",", ".")


def _original_name(scan: Scan) -> str:
    """Return the name in the image's path that became the subject, with its separators."""
    parts = map(subject_label, reversed(Path(scan.image).parts))
    return next((part for part in parts if letters_and_digits(part) == scan.subject), scan.subject)


def repeated_participants(scans: Sequence[Scan]) -> str:
    """Return a warning if several participants of training and tests may be one; else ""."""
    who = {_original_name(scan): scan.participant for scan in scans if side(scan.split)}
    groups = [group for group in possible_visits(who) if len({who[name] for name in group}) > 1]
    if not groups:
        return ""
    more = f" (and {len(groups) - 1} more groups)" if len(groups) > 1 else ""
    names = ", ".join(groups[0][:NAMED])
    return (
        f"{names}{more} look like scans of one participant, but are listed as several, who may be "
        "in different splits; if they are one, name it in the column 'participant'"
    )


def trained_on(views: Iterable[Mapping[str, Any]], scans: Sequence[Scan]) -> str:
    """Return a warning if a model may have been trained on participants of test scans; else "".

    `views` are entries of ``bundle.json``, with the names of the model's scans, and of those that
    its initial weights were trained on.
    """
    keys = ("training_scans", "validation_scans", "ancestor_scans")
    stems = {stem for view in views for key in keys for stem in view.get(key, ())}
    trained = {name_parts(stem.removesuffix("_tissues"))[0] for stem in stems}
    test = [scan for scan in scans if scan.split == "test"]
    known = [scan.id for scan in test if trained & {scan.subject, scan.participant}]
    if known:
        what = f"{len(known)} of the test scans may have been trained on: the model's scans have"
        what += f" the same names, {', '.join(known)}. If they are the same people, the scores are"
        return f"{what} too high"
    for known_set, tested_set in permutations(SAME_PEOPLE, 2):
        tested = any(re.match(SAME_PEOPLE[tested_set], scan.subject) for scan in test)
        if tested and any(re.match(SAME_PEOPLE[known_set], subject) for subject in trained):
            what = f"test scans may be of people in the training data: the model knows {known_set}"
            return f"{what}; {' and '.join(SAME_PEOPLE)} share participants"
    return ""
