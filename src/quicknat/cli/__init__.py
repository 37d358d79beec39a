"""The command line: a module per stage of the workflow, a sub-command per rule.

Heavy libraries are imported inside the commands that need them, so that ``--help`` and the
per-scan jobs start quickly.
"""

from importlib import import_module

from quicknat.cli.app import app, main

# in processing order, which is the order of --help
STAGES = (
    "cohort", "download", "convert", "autolabel", "slice", "train", "segment", "evaluate", "report",
)  # fmt: skip
for stage in STAGES:
    import_module(f"quicknat.cli.{stage}")

__all__ = ["app", "main"]
