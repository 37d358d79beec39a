"""The command line: one sub-command per rule of the workflow, and the user's own way in.

Heavy libraries are imported inside the commands that need them, so that ``--help`` and the
per-scan jobs start at once.
"""

from quicknat.cli.app import app, main

# in the order of the data, which is the order of --help
from quicknat.cli import cohorts, checks, raw, scans, painting, models, results, pages, ends  # isort: skip

__all__ = [
    "app", "checks", "cohorts", "ends", "main", "models", "pages", "painting", "raw", "results",
    "scans",
]  # fmt: skip
