"""Name and number structures as FreeSurfer does in its aseg."""

from __future__ import annotations

import re

import pandas as pd

from quicknat.errors import InputError
from quicknat.images.labels import Protocol, parse_ids

# structures that our networks may segment, from FreeSurfer 7's FreeSurferColorLUT.txt
ASEG = {
    1: "Left-Cerebral-Exterior", 2: "Left-Cerebral-White-Matter", 3: "Left-Cerebral-Cortex",
    4: "Left-Lateral-Ventricle", 5: "Left-Inf-Lat-Vent", 7: "Left-Cerebellum-White-Matter",
    8: "Left-Cerebellum-Cortex", 10: "Left-Thalamus", 11: "Left-Caudate", 12: "Left-Putamen",
    13: "Left-Pallidum", 14: "3rd-Ventricle", 15: "4th-Ventricle", 16: "Brain-Stem",
    17: "Left-Hippocampus", 18: "Left-Amygdala", 24: "CSF", 26: "Left-Accumbens-area",
    28: "Left-VentralDC", 31: "Left-choroid-plexus", 40: "Right-Cerebral-Exterior",
    41: "Right-Cerebral-White-Matter", 42: "Right-Cerebral-Cortex", 43: "Right-Lateral-Ventricle",
    44: "Right-Inf-Lat-Vent", 46: "Right-Cerebellum-White-Matter", 47: "Right-Cerebellum-Cortex",
    49: "Right-Thalamus", 50: "Right-Caudate", 51: "Right-Putamen", 52: "Right-Pallidum",
    53: "Right-Hippocampus", 54: "Right-Amygdala", 58: "Right-Accumbens-area",
    60: "Right-VentralDC", 63: "Right-choroid-plexus", 72: "5th-Ventricle", 85: "Optic-Chiasm",
}  # fmt: skip
# ventricles, cerebrospinal fluid, fifth ventricle, cerebral exterior
NOT_BRAIN = {4, 5, 14, 15, 24, 43, 44, 72, 1, 40}

# the side as a word of a name, or at its beginning: Left-Thalamus, lh_thalamus, LeftThalamus
LEFT, RIGHT = (
    re.compile(
        rf"[\s,_-]*\(?(?<![a-z])(?:{side}|{side[0]}h?)(?![a-z])\)?[\s,_-]*|^{side}", re.IGNORECASE
    )
    for side in ("left", "right")
)


def freesurfer_structures(protocol: Protocol) -> pd.DataFrame:
    """Return FreeSurfer's number and name of each class, and whether it is brain.

    Returns:
        A row per class, the background first: ``freesurfer_id`` (Int64, missing for a class that
        merges several of FreeSurfer's structures, e.g. all grey matter), ``freesurfer_name``
        ("" without a number), ``brain`` (without ventricles, other fluid, and what lies outside).
    """
    rows: list[tuple[int | None, str, bool]] = [(0, "Unknown", False)]
    for name, text in list(zip(protocol.names, protocol.table["freesurfer"], strict=True))[1:]:
        numbers = parse_ids(text)
        known = [number for number in numbers if number in ASEG]
        own = known if known else numbers
        number = own[0] if len(own) == 1 else None
        label = "" if number is None else ASEG.get(number, name.replace(" ", "-"))
        rows.append((number, label, not numbers or not NOT_BRAIN.issuperset(numbers)))
    table = pd.DataFrame(rows, columns=["freesurfer_id", "freesurfer_name", "brain"])
    return table.astype({"freesurfer_id": "Int64"})


def stored_values(protocol: Protocol, convention: str) -> list[int]:
    """Return the value of each class in a label map that is written.

    Args:
        protocol: of the classes.
        convention: ``freesurfer``, or the protocol's own name or "" for class indices.

    Raises:
        InputError: the convention is another, or a class has no number of its own in FreeSurfer.
    """
    if convention in ("", protocol.name):
        return [int(index) for index in protocol.table["index"]]
    if convention != "freesurfer":
        fix = f"allowed: freesurfer, {protocol.name}"
        raise InputError(f"label convention '{convention}'", "cannot be written", fix)
    numbers = freesurfer_structures(protocol)["freesurfer_id"]
    if numbers.isna().any() or numbers.duplicated().any():
        problem = f"{protocol.names[int(numbers.isna().argmax())]} has no single FreeSurfer number"
        raise InputError(f"protocol '{protocol.name}'", problem, "leave out --label-convention")
    return [int(number) for number in numbers]


def side(name: str, number: int) -> int:
    """Return -1 for left, 1 for right, 0 if neither FreeSurfer's number nor the name says it."""
    known = ASEG.get(number, name)
    return bool(RIGHT.search(known)) - bool(LEFT.search(known))
