"""Names of files and folders as names of scans, and what of a data set gets none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quicknat.cohort.sheet import Scan

TAKEN = "another of the same scan was taken"


@dataclass(frozen=True)
class LeftOut:
    """Something in the data set that gets no row, and why."""

    path: str
    reason: str


Finding = tuple[list[Scan], list[LeftOut]]


def name_parts(name: str) -> tuple[str, str]:
    """Subject and session out of the name of a file or folder, letters and digits only.

    ``sub-X_ses-Y…`` gives X and Y, ``OAS1_0001_MR2…`` OAS10001 and MR2, ``IXI002-Guys-…`` IXI002.
    Any other name gives its ASCII letters and digits, and no session.
    """
    if bids := re.match(r"sub-([A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?(?![A-Za-z0-9.-])", name):
        return bids[1], bids[2] or ""
    if oasis := re.match(r"OAS1_(\d{4})_(MR\d+)", name, re.IGNORECASE):
        return f"OAS1{oasis[1]}", oasis[2].upper()
    if ixi := re.match(r"IXI\d{3}(?=-)", name, re.IGNORECASE):
        return ixi[0].upper(), ""
    return re.sub(r"[^A-Za-z0-9]", "", name), ""


def scan_named(name: str, image: str, labels: str = "", protocol: str = "", use: str = "") -> Scan:
    """A row for the scan of that name; labelled ones are for training unless `use` says else."""
    subject, session = name_parts(name)
    return Scan(
        subject=subject, session=session, person=subject, image=image, labels=labels,
        protocol=protocol if labels else "", use=use or ("auto" if labels else "segment"),
    )  # fmt: skip
