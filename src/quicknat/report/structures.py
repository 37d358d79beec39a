"""Order structures for the report: by group of the brain, left and right side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from quicknat.images.labels import LEFT, Protocol, freesurfer_structures, side

# FreeSurfer numbers of each group, and its colour: Okabe and Ito's, dark enough on white
GROUPS = {
    "Cerebrum": ({2, 3, 41, 42}, "#0b5cad"),
    "Deep grey matter": ({9, 10, 11, 12, 13, 17, 18, 26, 28, *range(48, 55), 58, 60}, "#b84300"),
    "Ventricles and CSF": ({1, 40, 4, 5, 14, 15, 24, 31, 43, 44, 63, 72}, "#00735a"),
    "Cerebellum and brain stem": ({7, 8, 16, 46, 47}, "#8e4585"),
    "Other structures": (set(), "#4d5866"),
}
OTHER = list(GROUPS)[-1]


@dataclass(frozen=True)
class Structure:
    """A structure of both sides, or one of the midline.

    ``members`` are its names in the protocol: left and right, or one. ``brain``: whether it counts
    as brain, see :func:`quicknat.images.labels.freesurfer_structures`.
    """

    name: str
    group: str
    members: tuple[str, ...]
    indices: tuple[int, ...]
    brain: bool

    @property
    def color(self) -> str:
        """Colour of the group, #rrggbb."""
        return GROUPS[self.group][1]


def structures(protocol: Protocol) -> list[Structure]:
    """Return the structures of a protocol, grouped, left and right together."""
    names, known = protocol.names, freesurfer_structures(protocol)
    numbers, brain = known["freesurfer_id"].fillna(-1), known["brain"].tolist()
    found = []
    for index, partner in enumerate(protocol.partners("coronal").tolist()):
        if index == 0 or 0 < partner < index:
            continue
        group = next((key for key, (ids, _) in GROUPS.items() if numbers[index] in ids), OTHER)
        if partner < 0:
            found.append(Structure(names[index], group, (names[index],), (index,), brain[index]))
            continue
        sides = sorted((index, partner), key=lambda k: side(names[k], int(numbers[k])))
        bare = LEFT.sub(" ", names[sides[0]]).strip() or names[sides[0]]
        bare = bare[:1].upper() + bare[1:]
        members = tuple(names[k] for k in sides)
        found.append(Structure(bare, group, members, tuple(sides), brain[index]))
    return sorted(found, key=lambda one: list(GROUPS).index(one.group))


def brain_volume(wide: pd.DataFrame, those: Iterable[Structure]) -> pd.Series:
    """Return the volume of all structures that are brain, by scan.

    Args:
        wide: volumes, scans by names of structures.
        those: the structures.
    """
    return wide[paired_order(one for one in those if one.brain)].sum(axis=1)


def paired_order(those: Iterable[Structure]) -> list[str]:
    """Return the names of the protocol's structures in the order of the report."""
    return [name for one in those for name in one.members]
