"""Select scans by participant, session and other BIDS entities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from quicknat.cohort.naming import letters_and_digits, name_parts
from quicknat.errors import InputError

# PyBIDS' names of entities -> their keys in file names
ENTITIES = {
    "subject": "sub", "session": "ses", "task": "task", "acquisition": "acq", "ceagent": "ce",
    "reconstruction": "rec", "run": "run", "echo": "echo", "part": "part", "chunk": "chunk",
}  # fmt: skip
FIXED = {"datatype": "anat", "suffix": "T1w"}  # those of every scan that we segment
COUNTERS = ("run", "echo", "chunk")
ABSENT = (None, "Query.NONE")
PRESENT = ("*", "Query.ANY", "Query.REQUIRED")

Item = TypeVar("Item")


def _label(key: str, value: object) -> str:
    """Return a label as text; that of a counter without leading zeros."""
    return str(value).lstrip("0") if key in COUNTERS else str(value)


def entities(name: str) -> dict[str, str]:
    """Return the entities of a scan's name ``sub-X[_ses-Y][_acq-…]``, by their keys."""
    subject, session, others = name_parts(name)
    found = {"sub": subject, "ses": session}
    found |= dict(part.split("-", 1) for part in others.split("_") if part)
    return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class Selection:
    """Which scans to take; by default all.

    ``participants``, ``sessions``: labels with or without ``sub-`` and ``ses-``; none for all.
    ``filters``: by key (``acq``), the values that an entity may have; None stands for absent, ``*``
    for any value.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def read(
        cls, participants: Iterable[str], sessions: Iterable[str], filter_file: Path | None
    ) -> Selection:
        """Return the selection that command-line options state.

        Args:
            participants, sessions: labels; several may be in one text, between commas or spaces.
            filter_file: JSON as fMRIPrep takes it, of which ``t1w`` counts.

        Raises:
            InputError: an option is empty, or the file is not such a JSON, or names an unknown
                entity.
        """
        texts = {"--participant-label": list(participants), "--session-label": list(sessions)}
        labels = [" ".join(given).replace(",", " ").split() for given in texts.values()]
        for (option, given), found in zip(texts.items(), labels, strict=True):
            if given and not found:  # of a variable that is not set: it does not mean all
                raise InputError(option, "is empty", "state labels, or leave it out")
        subjects, visits = labels
        return cls(
            # as names of scans have them
            [letters_and_digits(label.removeprefix("sub-")) for label in subjects],
            [letters_and_digits(label.removeprefix("ses-")) for label in visits],
            _read_filters(filter_file) if filter_file else {},
        )

    def takes(self, name: str) -> bool:
        """Return whether a scan of this name is selected."""
        found = entities(name)
        if self.participants and found.get("sub") not in self.participants:
            return False
        if self.sessions and found.get("ses") not in self.sessions:
            return False
        return all(_fits(key, found.get(key), values) for key, values in self.filters.items())

    def of(
        self, items: Sequence[Item], name: Callable[[Item], str], where: str | Path
    ) -> list[Item]:
        """Return the selected items.

        Args:
            items: scans.
            name: what returns the name of an item.
            where: the data set, for error messages.

        Raises:
            InputError: a participant has no scan, or no scan is left.
        """
        subjects = {entities(name(item)).get("sub") for item in items}
        if absent := [label for label in self.participants if label not in subjects]:
            problem = f"has no T1w scan of participant {', '.join(absent)}"
            raise InputError(where, problem, "check --participant-label")
        chosen = [item for item in items if self.takes(name(item))]
        if items and not chosen:
            fix = "check --participant-label, --session-label and --bids-filter-file"
            raise InputError(where, f"none of {len(items)} scans is selected", fix)
        return chosen


def _fits(key: str, value: str | None, allowed: Sequence[Any]) -> bool:
    if value is None:
        return any(each in ABSENT for each in allowed)
    labels = [_label(key, each) for each in allowed if each is not None]
    return _label(key, value) in labels or any(each in PRESENT for each in allowed)


def _read_filters(path: Path) -> dict[str, list[Any]]:
    """Return the filters of the T1w scans by entity key."""
    fix = 'write e.g. {"t1w": {"acquisition": "mprage", "run": [1, 2]}}'
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"cannot be read as JSON ({error})", fix) from error
    wanted = content.get("t1w", {}) if isinstance(content, dict) else None
    if not isinstance(wanted, dict):
        raise InputError(path, "has no object 't1w' of entities", fix)
    filters: dict[str, list[Any]] = {}
    for name, given in wanted.items():
        key = ENTITIES.get(str(name), str(name))
        values = given if isinstance(given, list) else [given]
        if key in FIXED and FIXED[key] not in values:
            problem = f"asks for {key} {given}"
            raise InputError(path, problem, f"only {FIXED[key]} is segmented: leave it out")
        if key in ENTITIES.values():
            filters[key] = values
        elif key not in FIXED and key != "extension":
            fix = f"allowed: {', '.join(ENTITIES)}"
            raise InputError(path, f"has the unknown entity '{name}'", fix)
    return filters
