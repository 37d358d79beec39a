"""Read the table of tissues of synthetic images.

Each tissue has one intensity per image. Left and right of a structure are one tissue, so that
images cannot distinguish them. Columns of ``tissues.tsv``: ``index`` (0 is air), ``name``,
``region`` (air, brain, csf, outside), ``t1w`` (usual intensity in a conformed T1w scan, 0 … 255:
medians over four public heads and four of MALC, rounded estimates for tissues without labels there,
empty if it varies), and label values in ``freesurfer`` (with the values from 500 that SynthSeg uses
outside the brain) and ``neuromorphometrics``.
"""

from __future__ import annotations

from functools import cache

import pandas as pd

from quicknat.package_data import DATA


@cache
def tissue_table() -> pd.DataFrame:
    """Return the table of tissues, one row each, in the order of their indices."""
    table = pd.read_csv(DATA / "tissues.tsv", sep="\t", dtype=str, keep_default_na=False)
    return table.assign(t1w=pd.to_numeric(table["t1w"], errors="coerce"))
