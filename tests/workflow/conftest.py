"""Dry runs with an overlay and a sheet."""

from __future__ import annotations

import pytest

from helpers import run_snakemake


@pytest.fixture
def dry_run(tmp_path):
    """Dry-run with an overlay and, if given, sheet rows; returns the process."""

    def run(*arguments: str, rows: list[str] | None = None, overlay: dict | None = None):
        overlay = dict(overlay or {})
        if rows is not None:
            sheet = tmp_path / "sheet.tsv"
            sheet.write_text("\n".join("\t".join(row.split("|")) for row in rows) + "\n")
            overlay["sheet"] = str(sheet)
        return run_snakemake(tmp_path, "--dry-run", *arguments, overlay=overlay)

    return run
