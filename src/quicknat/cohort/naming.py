"""Names of scans and participants, and the selection of scans by what their names state."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from quicknat.errors import InputError

# PyBIDS' names of entities -> their keys in file names
ENTITIES = {
    "subject": "sub", "session": "ses", "task": "task", "acquisition": "acq", "ceagent": "ce",
    "reconstruction": "rec", "run": "run", "echo": "echo", "part": "part", "chunk": "chunk",
}  # fmt: skip
FIXED = {"datatype": "anat", "suffix": "T1w"}  # those of every scan that we segment
COUNTERS = ("run", "echo", "chunk")
ABSENT = (None, "Query.NONE")
ANY = "*"
PRESENT = (ANY, "Query.ANY", "Query.REQUIRED")

KEPT = "|".join(list(ENTITIES.values())[2:])  # those that tell scans of a session apart
MADE = "space|desc|res|den|atlas|seg|label"  # those of images computed from the same scan
SCAN_NAME = f"sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?(?:_(?:{KEPT})-[A-Za-z0-9]+)*"
BIDS = re.compile(r"sub-(.+?)((?:_[a-z]+-[^_]+)*?)(?:[_.-](?:t1w?|dseg|volumes))?", re.IGNORECASE)
# names of visits in public data sets: participant, visit, and what else the name holds
PUBLIC = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(OAS[12]_?\d{4})_?(MR\d+)(.*)",  # OASIS-1 and 2: OAS2_0001_MR1
        r"(OAS[34]\d{4})_?[a-z0-9]*?_?(d\d{4})(.*)",  # OASIS-3 and 4: OAS30001_MR_d0129
        r"(?:ADNI_?)?(\d{3}_?S_?\d{4,5})()(.*)",  # ADNI: 002_S_0413_m12
        r"(IXI\d{3})-[a-z]+-\d+()(.*)",  # IXI002-Guys-0828-T1
    )
]
VISIT = re.compile(  # at the end of a name
    r"[^a-z0-9]*(?:(?<![a-z])(?:"
    r"(?:visit|ses|session|scan|time|timepoint|tp|mri?|day|month|year|wave|[vtmywds])[^a-z0-9]*\d+"
    r"|(?:baseline|bl|follow-?up|fu|re-?test|test|pre|post)\d*)|(?<=\d)[a-z])$",
    re.IGNORECASE,
)

Item = TypeVar("Item")


def file_stem(name: str) -> str:
    """Return a file's name without the ending of an image or a table."""
    return re.sub(r"(\.nii)?(\.gz)?$|\.(mgz|mgh|img|hdr|tsv)$", "", name, flags=re.IGNORECASE)


def digest(text: str) -> str:
    """Return ``x`` and six hexadecimal digits, which distinguish texts."""
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:6]


def letters_and_digits(text: str) -> str:
    """Return the ASCII letters and digits of a name, and a digest if others are dropped.

    ``é`` becomes ``e``; ``扫描`` becomes only the digest.
    """
    plain = unicodedata.normalize("NFKD", text)
    kept = re.sub(r"[^A-Za-z0-9]", "", plain)
    if kept and not any(c.isalnum() and not c.isascii() for c in plain):
        return kept
    return kept + digest(unicodedata.normalize("NFC", text))


def _public(name: str) -> tuple[str, str] | None:
    """Return participant and visit, if the name is one of a public data set."""
    found = next((found for pattern in PUBLIC if (found := pattern.fullmatch(name))), None)
    if not found:
        return None
    rest = letters_and_digits(found[3]) if re.search(r"[^\W_]", found[3]) else ""
    visit = found[2].upper() if found[2][:1] in "Mm" else found[2]
    return letters_and_digits(found[1]).upper(), visit + rest


def subject_label(name: str) -> str:
    """Return the part of a file's or folder's name that names the subject, as it is written."""
    name = file_stem(name)
    bids = BIDS.fullmatch(name)
    return bids[1] if bids else re.sub(r"(?<=.)[_. -]T1w?$", "", name, flags=re.IGNORECASE)


def name_parts(name: str) -> tuple[str, str, str]:
    """Return subject, session and other entities from the name of a file or folder.

    ``sub-X_ses-Y_run-1…`` gives X, Y and run-1. In names of OASIS, ADNI and IXI the subject is the
    participant, the rest the session. Any other name gives its letters and digits as the subject.
    Whatever is not understood is kept, in subject or session: names that differ stay different,
    but for separators and for how an image was computed (``space``, ``desc``).
    """
    label, session, entities = subject_label(name), "", []
    bids = BIDS.fullmatch(file_stem(name))
    for part in bids[2].split("_")[1:] if bids else ():
        key, _, value = part.partition("-")
        if re.fullmatch(KEPT, key):
            entities.append(f"{key}-{letters_and_digits(value)}")
        elif not re.fullmatch(MADE, key):
            session += letters_and_digits(value if key == "ses" else part)
    # a valid subject of BIDS stays as it is
    public = None if bids and label.isalnum() and label.isascii() else _public(label)
    subject, visit = public or (letters_and_digits(label), "")
    return subject, visit + session, "_".join(entities)


def scan_name(subject: str, session: str, entities: str) -> str:
    """Return the BIDS name ``sub-X[_ses-Y][_acq-…][_run-…]``."""
    visit = f"_ses-{session}" if session else ""
    return f"sub-{subject}{visit}_{entities}" if entities else f"sub-{subject}{visit}"


def entities(name: str) -> dict[str, str]:
    """Return subject, session and other entities by their keys, see :func:`name_parts`."""
    subject, session, others = name_parts(name)
    found = {"sub": subject, "ses": session}
    found |= dict(part.split("-", 1) for part in others.split("_") if part)
    return {key: value for key, value in found.items() if value}


def default_name(path: Path) -> str:
    """Return the ``sub-…`` name of a file's results, see :func:`name_parts`.

    FreeSurfer's images (``bert/mri/T1.mgz``) are named after the subject's folder.
    """
    folder = path.absolute().parent
    bert = folder.parent.name if folder.name == "mri" else ""
    return scan_name(*name_parts(bert or path.name))


def possible_visits(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that may stand for visits of one participant.

    They are visits in a public data set's names; or equal but for a visit at the end (``p1_v1``,
    ``p1_v2``; ``anna``, ``anna_tp2``); or begin with one number, while others begin with another
    (``1000012_2``).
    """
    names = sorted(set(names))
    words = [re.findall("[A-Za-z0-9]+", name) for name in names]
    common = len(list(takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False))))
    groups: dict[str, list[str]] = defaultdict(list)
    for name, found in zip(names, words, strict=True):
        participant = (_public(name) or (VISIT.sub("", name) or name, ""))[0]
        groups[letters_and_digits(participant)].append(name)
        if len(found) > common + 1 and re.search(r"\d{3}", found[common]):  # no word for a group
            groups[f"{found[common]} …"].append(name)
    return sorted({tuple(group): group for group in groups.values() if len(group) > 1}.values())


@dataclass(frozen=True)
class Selection:
    """Which scans to take; by default all.

    ``participants``, ``sessions``: labels without ``sub-`` and ``ses-``; none for all.
    ``filters``: by key (``acq``), the values that an entity may have; None stands for absent, ``*``
    for any value.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @classmethod
    def read(
        cls, participants: Iterable[str], sessions: Iterable[str], filter_file: Path | None
    ) -> Selection:
        """Return the selection that command-line options state.

        Several labels may be in one text, between commas or spaces. The file is JSON as fMRIPrep
        takes it, of which ``t1w`` counts.

        Raises:
            InputError: an option is empty, or the file is not such a JSON, or names an unknown
                entity.
        """
        return cls(
            _read_labels("--participant-label", "sub-", participants),
            _read_labels("--session-label", "ses-", sessions),
            _read_filters(filter_file) if filter_file else {},
        )

    def of(
        self, items: Sequence[Item], name: Callable[[Item], str], where: str | Path
    ) -> list[Item]:
        """Return the selected items; `name` returns the name of one.

        Raises:
            InputError: a participant has no scan, or no scan is left; it names `where`.
        """
        found = [entities(name(item)) for item in items]
        subjects = {each["sub"] for each in found}
        if absent := [label for label in self.participants if label not in subjects]:
            problem = f"has no T1w scan of participant {', '.join(absent)}"
            raise InputError(where, problem, "check --participant-label")
        chosen = [item for item, each in zip(items, found, strict=True) if self._takes(each)]
        if items and not chosen:
            fix = "check --participant-label, --session-label and --bids-filter-file"
            raise InputError(where, f"none of {len(items)} scans is selected", fix)
        return chosen

    def _takes(self, found: Mapping[str, str]) -> bool:
        return (
            (not self.participants or found["sub"] in self.participants)
            and (not self.sessions or found.get("ses") in self.sessions)
            and all(
                (label := _label(key, found.get(key))) in allowed
                or (label is not None and ANY in allowed)
                for key, allowed in self.filters.items()
            )
        )


def _read_labels(option: str, prefix: str, given: Iterable[str]) -> list[str]:
    """Return the labels that an option states, as names of scans have them."""
    texts = list(given)
    labels = " ".join(texts).replace(",", " ").split()
    if texts and not labels:  # of a variable that is not set: it does not mean all
        raise InputError(option, "is empty", "state labels, or leave it out")
    return [letters_and_digits(label.removeprefix(prefix)) for label in labels]


def _read_filters(path: Path) -> dict[str, list[str | None]]:
    """Return the filters of the T1w scans by entity key."""
    fix = 'write e.g. {"t1w": {"acquisition": "mprage", "run": [1, 2]}}'
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, f"cannot be read as JSON ({error})", fix) from error
    wanted = content.get("t1w", {}) if isinstance(content, dict) else None
    if not isinstance(wanted, dict):
        raise InputError(path, "has no object 't1w' of entities", fix)
    filters: dict[str, list[str | None]] = {}
    for name, given in wanted.items():
        key = ENTITIES.get(str(name), str(name))
        values = given if isinstance(given, list) else [given]
        if key in FIXED and FIXED[key] not in values:
            fix = f"only {FIXED[key]} is segmented: leave it out"
            raise InputError(path, f"asks for {key} {given}", fix)
        if key in ENTITIES.values():
            filters[key] = [_label(key, value) for value in values]
        elif key not in FIXED and key != "extension":
            fix = f"allowed: {', '.join(ENTITIES)}"
            raise InputError(path, f"has the unknown entity '{name}'", fix)
    return filters


def _label(key: str, value: object) -> str | None:
    """Return an entity's value as text, counters without leading zeros; None if it is absent."""
    if value in ABSENT:
        return None
    if value in PRESENT:
        return ANY
    return str(value).lstrip("0") if key in COUNTERS else str(value)
