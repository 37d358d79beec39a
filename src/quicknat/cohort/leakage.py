"""Warn where one participant may be both trained and tested on, under different names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quicknat.cohort.naming import letters_and_digits, name_parts, possible_visits, subject_label
from quicknat.cohort.sheet import Scan, side

NAMED = 3  # examples in a message
# data sets of the same people, by the names of their subjects in our sheets. All 35 scans of MALC
# are of OASIS-1 participants; they are among the 45 training scans in the README of SLANT
# (github.com/MASILab/SLANTbrainSeg, and its issue 1)
SAME_PEOPLE = {"MALC": r"MALC\d", "OASIS-1": r"OAS1\d{4}"}


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

    Args:
        views: the views' entries of ``bundle.json``, with the names of the model's scans, and of
            those that its initial weights were trained on.
        scans: of the run.
    """
    keys = ("training_scans", "validation_scans", "ancestor_scans")
    stems = {stem for view in views for key in keys for stem in view.get(key, ())}
    trained = {name_parts(stem.removesuffix("_tissues"))[0] for stem in stems}
    test = [scan for scan in scans if scan.split == "test"]
    known = [scan.id for scan in test if trained & {scan.subject, scan.participant}]
    if known:
        what = f"{len(known)} of the test scans may have been trained on: the model's scans have"
        what += f" the same names, {', '.join(known)}. If they are the same heads, the scores are"
        return f"{what} too high"
    for name, pattern in SAME_PEOPLE.items():
        others = [own for other, own in SAME_PEOPLE.items() if other != name]
        tested = any(re.match(own, scan.subject) for own in others for scan in test)
        if tested and any(re.match(pattern, subject) for subject in trained):
            what = f"test scans may be of people who were trained on: the model knows {name}"
            return f"{what}; {' and '.join(SAME_PEOPLE)} share participants"
    return ""
