"""Dry runs with an overlay and a sheet."""

from __future__ import annotations

import pytest

from helpers import run_snakemake, tiny_labels, tiny_scan


@pytest.fixture
def dry_run(tmp_path):
    """Dry-run with an overlay and, if given, sheet rows; returns the process.

    The files that the rows name are made, small, unless they are there or are called `absent`.
    """

    def run(*arguments: str, rows: list[str] | None = None, overlay: dict | None = None):
        overlay = dict(overlay or {})
        if rows is not None:
            header, *cells = [row.split("|") for row in rows]
            sheet = tmp_path / "sheet.tsv"
            sheet.write_text("\n".join("\t".join(row) for row in (header, *cells)) + "\n")
            overlay["sheet"] = str(sheet)
            for row in (dict(zip(header, values, strict=True)) for values in cells):
                for column, make in (("image", tiny_scan), ("labels", tiny_labels)):
                    path = tmp_path / (row[column] or "absent")
                    if not path.exists() and not path.name.startswith("absent"):
                        make(path)
        return run_snakemake(tmp_path, "--dry-run", *arguments, overlay=overlay)

    return run
