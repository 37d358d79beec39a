"""Where things are, and how tests run Snakemake."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
LABELS = ROOT / "workflow" / "labels"


def run_snakemake(directory: Path, *arguments: str, overlay: dict | None = None, env=None):
    """Run on `directory`; returns the finished process with both outputs in one text."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(directory), "--cores", "2", *arguments]
    if overlay is not None:
        path = directory / "overlay.yaml"
        path.write_text(yaml.safe_dump(overlay))
        command += ["--configfile", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=env)
    done.text = done.stdout + done.stderr
    return done


def job_counts(text: str) -> Counter:
    """Jobs per rule out of the table that a dry run prints."""
    table = re.search(r"Job stats:\njob +count\n-+ +-+\n(.*?)\ntotal", text, re.DOTALL)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return Counter({rule: int(count) for rule, count in rows if rule != "all"})
