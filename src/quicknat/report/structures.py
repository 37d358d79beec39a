"""Order structures for the report, by group and in pairs, and colour their outlines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
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
# Okabe and Ito's colours, distinct for every kind of colour vision
HUES = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
     (204, 121, 167)]
)  # fmt: skip
PALER = (0.0, 0.4, 0.65)  # fraction of white in the first, second and third round of colours
DARKER = 0.68  # brightness of a right structure's colour, relative to its left partner's
DARKEST = 130  # luma of an outline, at least, to be seen on grey


@dataclass(frozen=True)
class Structure:
    """A structure of both sides, or one of the midline; or a measure, for a chart.

    ``members`` are its names in the protocol: left and right, or one. ``color`` is #rrggbb.
    ``brain``: whether it counts as brain, see
    :func:`quicknat.images.labels.freesurfer_structures`.
    """

    name: str
    group: str
    color: str
    members: tuple[str, ...]
    indices: tuple[int, ...] = ()
    brain: bool = False


def structures(protocol: Protocol) -> list[Structure]:
    """Return the structures of a protocol, grouped, left and right together."""
    names, known = protocol.names, freesurfer_structures(protocol)
    numbers, brain = known["freesurfer_id"].fillna(-1), known["brain"].tolist()
    found = []
    for index, partner in enumerate(protocol.partners("coronal").tolist()):
        if index == 0 or 0 < partner < index:
            continue
        name, indices = names[index], [index]
        if partner > 0:
            indices = sorted((index, partner), key=lambda k: side(names[k], int(numbers[k])))
            left = names[indices[0]]
            name = LEFT.sub(" ", left).strip() or left
            name = name[:1].upper() + name[1:]
        group = next((key for key, (ids, _) in GROUPS.items() if numbers[index] in ids), OTHER)
        members = tuple(names[k] for k in indices)
        color = GROUPS[group][1]
        found.append(Structure(name, group, color, members, tuple(indices), brain[index]))
    return sorted(found, key=lambda one: list(GROUPS).index(one.group))


def paired_order(those: Iterable[Structure]) -> list[str]:
    """Return the names of the protocol's structures in the order of the report."""
    return [name for one in those for name in one.members]


def brain_volume(wide: pd.DataFrame, those: Iterable[Structure]) -> pd.Series:
    """Return the volume of all structures that are brain, by scan; NaN if none is.

    Volumes are `wide`: scans by names of structures.
    """
    return wide[paired_order(one for one in those if one.brain)].sum(axis=1, min_count=1)


def colour_blind_colors(protocol: Protocol) -> np.ndarray:
    """Return colour-blind-safe colours, uint8 (C, 3); left and right partners share a hue."""
    colors = np.zeros((len(protocol.table), 3))
    used = 0
    for index, partner in enumerate(protocol.partners("coronal")):
        if index > 0 and 0 <= partner < index:
            colors[index] = DARKER * colors[partner]
        elif index > 0:
            white = PALER[used // len(HUES) % len(PALER)]
            colors[index] = HUES[used % len(HUES)] * (1 - white) + 255 * white
            used += 1
    return np.rint(colors).astype(np.uint8)


def outline_colors(protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Return colours that stand out on grey, the same for left and right: two of uint8 (C, 3).

    The first are near the protocol's colours, the second near the colour-blind-safe ones.
    """
    partners = protocol.partners("coronal")
    own, safe = protocol.colors, colour_blind_colors(protocol)
    return _bright(own, partners), _bright(safe, partners)


def _bright(colors: np.ndarray, partners: np.ndarray) -> np.ndarray:
    found = colors.astype(float)
    for index, partner in enumerate(partners):
        if 0 < partner < index:
            found[index] = found[partner]
        elif index > 0:
            brightest = max(found[index].max(), 1.0)
            found[index] *= max(1.0, 255 / brightest)
            # pure blue and dark red look dark however bright they are
            light = found[index] @ (0.299, 0.587, 0.114)
            if light < DARKEST:
                found[index] += (255 - found[index]) * (DARKEST - light) / (255 - light)
    return np.rint(found).astype(np.uint8)


def outline_legend(protocol: Protocol) -> list[dict[str, str]]:
    """Return name and colours, own and colour-blind-safe, of the outlines of each structure."""
    own, safe = outline_colors(protocol)
    return [
        {"name": one.name, "color": f"#{bytes(own[k]).hex()}", "safe": f"#{bytes(safe[k]).hex()}"}
        for one in structures(protocol)
        for k in [min(one.indices)]
    ]
