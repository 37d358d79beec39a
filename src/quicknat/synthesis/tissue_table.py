"""The tissues of synthetic images.

A tissue is what one brightness is drawn for. Left and right of a structure are one tissue, so that
no image can tell them apart. The columns of ``tissues.tsv``: ``index`` (0 is air), ``name``,
``region`` (air, brain, csf, outside), ``t1w`` (usual brightness in a conformed T1w scan, 0 … 255:
medians over four public heads and four of MALC, round figures for what has no label there, empty
where it varies), and its numbers in ``freesurfer`` (with those from 500 on that SynthSeg's maps
add for the head) and in ``neuromorphometrics``.
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from quicknat.package_data import DATA


@cache
def tissue_table() -> pd.DataFrame:
    """Return the table of tissues, a row each, in the order of their indices."""
    table = pd.read_csv(DATA / "tissues.tsv", sep="\t", dtype=str, keep_default_na=False)
    return table.assign(t1w=pd.to_numeric(table["t1w"], errors="coerce"))
