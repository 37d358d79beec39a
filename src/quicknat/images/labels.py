"""Label protocols: the structures to predict, and how label conventions map to them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from quicknat.errors import InputError
from quicknat.images.volumes import whole_numbers

COLUMNS = [
    "index",
    "name",
    "abbreviation",
    "color",
    "freesurfer",
    "neuromorphometrics",
    "partner",
    "sagittal",
]
CONVENTIONS = ("freesurfer", "neuromorphometrics")
EXAMPLE = "compare it with src/quicknat/data/labels/quicknat28.tsv"
MAX_CLASSES = 256  # label maps are stored in bytes
UNUSED = {9, 48}  # the thalami before FreeSurfer had 10 and 49; read, but not written


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
        if list(table["index"]) != list(range(len(table))) or len(table) < 2:
            raise InputError(
                path, "the index column has gaps or repeats", "count 0, 1, 2, … without gaps"
            )
        if len(table) > MAX_CLASSES:
            raise InputError(path, f"has {len(table)} classes", f"use at most {MAX_CLASSES}")
        for column in ("name", "abbreviation"):
            twice = table[column][table[column].duplicated()]
            if len(twice):
                raise InputError(
                    path, f"{column} '{twice.iloc[0]}' is in two rows", "name each class once"
                )
        for key, lists in ids.items():
            counts = Counter(number for numbers in lists for number in numbers)
            twice = [number for number, count in counts.items() if count > 1]
            if twice:
                raise InputError(
                    path, f"{key} {min(twice)} is mapped to two classes", "keep it in one row"
                )
        for row in table.itertuples():
            if not re.fullmatch(r"#[0-9A-Fa-f]{6}", row.color):
                raise InputError(
                    path, f"color '{row.color}' of {row.name} is not #RRGGBB", "write it as #00FF7F"
                )
            mutual = row.partner == -1 or (
                0 < row.partner < len(table)
                and table["partner"][row.partner] == row.index
                and table["sagittal"][row.partner] == row.sagittal
            )
            if not mutual:
                raise InputError(
                    path,
                    f"{row.name}: its partner does not name it, or has another sagittal class",
                    "let left and right partners name each other and have one sagittal class",
                )
        if sorted(set(table["sagittal"])) != list(range(table["sagittal"].max() + 1)):
            raise InputError(path, "the sagittal column has gaps", "use 0, 1, 2, … without gaps")
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
            listed = ", ".join(f"{value} ({count} voxels)" for value, count in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise InputError(
                where,
                f"label value {listed}{more} is not in the {convention} convention",
                "check the sheet's 'label_convention', or add the value to the label table",
            )
        lookup = np.array([known[int(value)] for value in values], dtype=np.uint8)
        mapped = lookup[np.searchsorted(values, source)]
        if not mapped.any():
            raise InputError(
                where, f"contains no structure of protocol '{self.name}'", "is this the right file?"
            )
        return mapped

    def to_freesurfer(self) -> np.ndarray:
        """Return the FreeSurfer number to write for each class, int64 (C,); -1 if it has none.

        It is the first one of the table that FreeSurfer itself still writes.
        """
        numbers = [parse_ids(text) or [-1] for text in self.table["freesurfer"]]
        return np.array([0, *(min(ids, key=UNUSED.__contains__) for ids in numbers[1:])])

    def write(self, path: str | Path) -> None:
        """Write the table in the format that :meth:`read` accepts."""
        table = self.table.copy()
        table["partner"] = table["partner"].astype(str).replace("-1", "")
        table.to_csv(path, sep="\t", index=False, lineterminator="\n")
