"""Label protocols: the structures to predict, and their numbers and names in other conventions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from quicknat.errors import InputError
from quicknat.images.volumes import whole_numbers
from quicknat.package_data import LABEL_TABLES

CONVENTIONS = ("freesurfer", "neuromorphometrics")
COLUMNS = ["index", "name", "abbreviation", "color", *CONVENTIONS, "partner", "sagittal"]
EXAMPLE = f"compare it with {LABEL_TABLES['quicknat28']}"
MAX_CLASSES = 256  # label maps are stored in bytes
LISTED = 10  # unknown values, in a message

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
# white matter and cortex of both sides, whole or in parcels of Desikan-Killiany or Destrieux
CEREBRUM = (
    {2, *range(3000, 3036), *range(13100, 13176)}, {41, *range(4000, 4036), *range(14100, 14176)},
    {3, *range(1000, 1036), *range(11100, 11176)}, {42, *range(2000, 2036), *range(12100, 12176)},
)  # fmt: skip

# the side as a word of a name, or at its beginning: Left-Thalamus, lh_thalamus, LeftThalamus
LEFT, RIGHT = (
    re.compile(
        rf"[\s,_-]*\(?(?<![a-z])(?:{side}|{side[0]}h?)(?![a-z])\)?[\s,_-]*|^{side}", re.IGNORECASE
    )
    for side in ("left", "right")
)


def parse_ids(text: str) -> list[int]:
    """Expand ``"3,1000-1035,101-207:2"`` into the numbers it stands for.

    A range includes both ends; ``:2`` selects every second number.
    """
    ids: list[int] = []
    for part in filter(None, text.split(",")):
        # six digits suffice for every atlas; more would be a typo that exhausts memory
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6})(?::(\d{1,6}))?)?", part.strip())
        if not match:
            raise ValueError(f"'{part}' is neither a number nor a range like 100-206:2")
        first, last, step = match.groups()
        ids.extend(range(int(first), int(last or first) + 1, int(step or 1)))
    return ids


def _faults(table: pd.DataFrame, ids: dict[str, list[list[int]]]) -> Iterator[tuple[str, str]]:
    """Yield problem and fix of what is wrong with a label table, where `ids` are its numbers."""
    if list(table["index"]) != list(range(len(table))) or len(table) < 2:
        yield "the index column has gaps or repeats", "count 0, 1, 2, … without gaps"
    if len(table) > MAX_CLASSES:
        yield f"has {len(table)} classes", f"use at most {MAX_CLASSES}"
    for column in ("name", "abbreviation"):
        for name in table[column][table[column].duplicated()]:
            yield f"{column} '{name}' is in two rows", "name each class once"
    for key, lists in ids.items():
        counts = Counter(number for numbers in lists for number in numbers)
        for number in sorted(number for number, count in counts.items() if count > 1):
            yield f"{key} {number} is mapped to two classes", "keep it in one row"
    for row in table.itertuples():
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", row.color):
            yield f"color '{row.color}' of {row.name} is not #RRGGBB", "write it as #00FF7F"
        mutual = row.partner == -1 or (
            0 < row.partner < len(table)
            and table["partner"][row.partner] == row.index
            and table["sagittal"][row.partner] == row.sagittal
        )
        if not mutual:
            problem = f"{row.name}: its partner does not name it, or has another sagittal class"
            yield problem, "let left and right partners name each other and have one sagittal class"
    if sorted(set(table["sagittal"])) != list(range(table["sagittal"].max() + 1)):
        yield "the sagittal column has gaps", "use 0, 1, 2, … without gaps"


@dataclass(frozen=True)
class Protocol:
    """A label protocol: one row per class; class 0 is the background.

    Columns of `table`: ``index`` (0 … C-1), ``name``, ``abbreviation``, ``color`` (#RRGGBB),
    ``freesurfer`` and ``neuromorphometrics`` (label values that map to this class; those of row 0
    become background), ``partner`` (index of the same structure on the other side, -1 for midline),
    ``sagittal`` (class of the sagittal network, which merges left and right).
    """

    name: str
    table: pd.DataFrame

    @classmethod
    def read(cls, path: str | Path) -> Protocol:
        """Read and check a protocol table (TSV).

        Raises:
            InputError: the table is missing, or has gaps, duplicates or inconsistent partners.
        """
        path = Path(path)
        try:
            table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(path, f"cannot be read as a label table ({error})", EXAMPLE) from error
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise InputError(path, f"lacks the column(s) {', '.join(missing)}", EXAMPLE)
        try:
            for column in ("index", "sagittal"):
                table[column] = table[column].astype(int)
            table["partner"] = table["partner"].replace("", "-1").astype(int)
            ids = {key: [parse_ids(text) for text in table[key]] for key in CONVENTIONS}
        except (ValueError, OverflowError) as error:
            raise InputError(path, f"a value is not a number ({error})", EXAMPLE) from error
        for problem, fix in _faults(table, ids):
            raise InputError(path, problem, fix)
        return cls(path.stem, table)

    @cached_property
    def names(self) -> list[str]:
        return list(self.table["name"])

    @cached_property
    def sagittal(self) -> np.ndarray:
        """Sagittal class of each class, int64 (C,)."""
        return self.table["sagittal"].to_numpy()

    @cached_property
    def colors(self) -> np.ndarray:
        """uint8 (C, 3) RGB."""
        return np.array(
            [[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in self.table["color"]],
            dtype=np.uint8,
        )

    def view_colors(self, view: str) -> np.ndarray:
        """Return the colour of each class of a view, uint8 (C, 3); merged ones use the left's."""
        first = np.unique(self.sagittal, return_index=True)[1]
        return self.colors[first] if view == "sagittal" else self.colors

    def n_classes(self, view: str) -> int:
        """Return the number of classes, including background, of the network for `view`."""
        return int(self.sagittal.max()) + 1 if view == "sagittal" else len(self.table)

    def class_names(self, view: str) -> list[str]:
        """Return the names of the classes of a view; merged classes lose their side."""
        if view != "sagittal":
            return self.names
        first = [int(np.argmax(self.sagittal == k)) for k in range(self.n_classes(view))]
        merged = self.table.loc[first]
        # one spelling of the side only, since models hold the names, and are refused with others
        return [
            re.sub(r"^Left ", "", name).capitalize() if partner >= 0 else name
            for name, partner in zip(merged["name"], merged["partner"], strict=True)
        ]

    def partners(self, view: str) -> np.ndarray:
        """Return each class's partner on the other side, -1 for none, for a view (C,)."""
        if view == "sagittal":  # left and right are merged
            return np.full(self.n_classes(view), -1)
        return self.table["partner"].to_numpy()

    @cached_property
    def swapped(self) -> np.ndarray:
        """What each class becomes in a left–right flip, (C,)."""
        partners = self.table["partner"].to_numpy()
        return np.where(partners < 0, np.arange(len(partners)), partners)

    def remap(self, source: np.ndarray, convention: str, where: str | Path) -> np.ndarray:
        """Map a label map to class indices, uint8, same shape.

        Args:
            source: label values, see :func:`quicknat.images.volumes.whole_numbers`.
            convention: ``freesurfer``, ``neuromorphometrics``, or this protocol's own name if the
                file already holds class indices.
            where: file named in error messages.

        Raises:
            InputError: a value is fractional, negative or unknown (the message has voxel counts),
                or no structure of the protocol is present.
        """
        source = whole_numbers(source, where)
        values, counts = np.unique(source, return_counts=True)
        if convention == self.name:
            known = {int(index): int(index) for index in self.table["index"]}
        elif convention in CONVENTIONS:
            known = {
                number: int(row["index"])
                for row in self.table.to_dict("records")
                for number in parse_ids(row[convention])
            }
        else:
            raise InputError(
                where,
                f"labels of convention '{convention}' cannot be mapped to protocol '{self.name}'",
                f"allowed: {', '.join([*CONVENTIONS, self.name])}; or, if '{convention}' is a "
                "label table, predict its classes with the setting 'protocol'",
            )
        unknown = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if v not in known]
        if unknown:
            listed = ", ".join(f"{value} ({count} voxels)" for value, count in unknown[:LISTED])
            more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
            what = (
                f"label values {listed}{more} are"
                if len(unknown) > 1
                else f"label value {listed} is"
            )
            column = "index" if convention == self.name else convention
            raise InputError(
                where,
                f"{what} in no row of the label table '{self.name}', column {column}",
                "check the label convention, or add the value to that table (to row 0 if it is to "
                "be background)",
            )
        lookup = np.array([known[int(value)] for value in values], dtype=np.uint8)
        mapped = lookup[np.searchsorted(values, source)]
        if not mapped.any():
            raise InputError(
                where, f"contains no structure of protocol '{self.name}'", "is this the right file?"
            )
        return mapped

    def write(self, path: str | Path) -> None:
        """Write the table in the format that :meth:`read` accepts."""
        table = self.table.copy()
        table["partner"] = table["partner"].astype(str).replace("-1", "")
        table.to_csv(path, sep="\t", index=False, lineterminator="\n")


def freesurfer_structures(protocol: Protocol) -> pd.DataFrame:
    """Return FreeSurfer's number and name of each class, and whether it is brain.

    Returns:
        A row per class, the background first: ``freesurfer_id`` (Int64, missing for a class that
        merges several of FreeSurfer's structures, e.g. all grey matter), ``freesurfer_name``
        ("" without a number), ``brain`` (without ventricles, other fluid, and what lies outside;
        False throughout if the protocol lacks the cerebrum: the sum would be no brain volume).
    """
    rows: list[tuple[int | None, str, bool]] = [(0, "Unknown", False)]
    ids = [parse_ids(text) for text in protocol.table["freesurfer"]]
    every = {number for numbers in ids[1:] for number in numbers}
    whole = all(every & part for part in CEREBRUM)
    for name, numbers in list(zip(protocol.names, ids, strict=True))[1:]:
        known = [number for number in numbers if number in ASEG]
        own = known if known else numbers
        number = own[0] if len(own) == 1 else None
        label = "" if number is None else ASEG.get(number, name.replace(" ", "-"))
        brain = whole and not (numbers and NOT_BRAIN.issuperset(numbers))
        rows.append((number, label, brain))
    table = pd.DataFrame(rows, columns=["freesurfer_id", "freesurfer_name", "brain"])
    return table.astype({"freesurfer_id": "Int64"})


def stored_values(protocol: Protocol, convention: str) -> list[int]:
    """Return the value of each class in a label map that is written.

    The convention is ``freesurfer``, or the protocol's own name or "" for class indices.

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
