"""Arrange a scan's volumes for its page: by group, left and right side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd

from quicknat.images.labels import Protocol
from quicknat.report.layers import colour_blind_colors, outline_colors
from quicknat.report.structures import structures

# title and digits of each measure; shown where at least one structure has it
MEASURES = {
    "volume_mm3": ("Volume (mm³)", 0),
    "reference_mm3": ("Reference (mm³)", 0),
    "percentile": ("Percentile", 0),
    "uncertainty": ("Uncertainty", 2),
    "view_agreement": ("View agreement", 2),
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 (mm)", 1),
}


def volume_table(volumes: pd.DataFrame, protocol: Protocol) -> dict[str, Any]:
    """Return the content of a scan's table of volumes.

    Args:
        volumes: of the scan: name, index (NaN for totals), and measures.
        protocol: names and sides of the structures.

    Returns:
        ``measures``: those that a structure has; ``volume_groups``: rows by group; ``totals``.
    """
    single = volumes[volumes["index"].notna()].set_index("name")
    measures = {key: of for key, of in MEASURES.items() if key in single and single[key].any()}
    groups: dict[str, list[dict]] = {}
    for one in structures(protocol):
        members = single.reindex(list(one.members)).to_dict("records")
        asymmetry = None
        if len(members) == 2:
            left, right = (member["volume_mm3"] for member in members)
            asymmetry = (left - right) / (left + right) if left + right > 0 else None
        row: dict[str, Any] = {"name": one.name, "indices": one.indices, "color": one.color}
        row |= {"members": members, "asymmetry": asymmetry}
        groups.setdefault(one.group, []).append(row)
    totals = volumes[volumes["index"].isna()].to_dict("records")
    return {"measures": measures, "volume_groups": groups, "totals": totals}


def outline_legend(protocol: Protocol) -> list[dict[str, str]]:
    """Return name and colours, own and colour-blind-safe, of the outlines of each structure."""
    partners = protocol.partners("coronal")
    palettes = [
        outline_colors(colors, partners)
        for colors in (protocol.colors, colour_blind_colors(protocol))
    ]
    return [
        {"name": one.name, "color": f"#{bytes(own).hex()}", "safe": f"#{bytes(safe).hex()}"}
        for one in structures(protocol)
        for own, safe in [(palette[min(one.indices)] for palette in palettes)]
    ]
