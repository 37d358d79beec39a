"""Names of scans and participants, from the names of files and folders."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

KEPT = "task|acq|ce|rec|run|echo|part|chunk"  # BIDS entities that tell scans of a session apart
MADE = "space|desc|res|den|atlas|seg|label"  # those of images computed from the same scan
ENTITIES = f"(?:_(?:{KEPT})-[A-Za-z0-9]+)*"
SCAN_NAME = f"sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?{ENTITIES}"
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


def file_stem(name: str) -> str:
    """Return a file's name without the ending of an image or a table."""
    return re.sub(r"(\.nii)?(\.gz)?$|\.(mgz|mgh|img|hdr|tsv)$", "", name, flags=re.IGNORECASE)


def letters_and_digits(text: str) -> str:
    """Return the ASCII letters and digits of a name, and a digest if others are dropped.

    ``é`` becomes ``e``; ``扫描`` has only the digest: ``x`` and six hexadecimal digits.
    """
    plain = unicodedata.normalize("NFKD", text)
    kept = re.sub(r"[^A-Za-z0-9]", "", plain)
    if kept and not any(c.isalnum() and not c.isascii() for c in plain):
        return kept
    return kept + "x" + hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()[:6]


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


def default_name(path: Path) -> str:
    """Return the ``sub-…`` name of a file's results, see :func:`name_parts`.

    FreeSurfer's images (``bert/mri/T1.mgz``) are named after the subject's folder.
    """
    folder = path.absolute().parent
    bert = folder.parent.name if folder.name == "mri" else ""
    subject, session, entities = name_parts(bert or path.name)
    return "_".join(filter(None, [f"sub-{subject}", session and f"ses-{session}", entities]))


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
