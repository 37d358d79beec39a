#!/usr/bin/env bash
# conda made the environment; the `quicknat` of this workflow goes into it, so that jobs run its code
# with these packages. Snakemake runs this script itself; workflow/rules/software.smk sets the folder.
set -euo pipefail
python -m pip install --quiet --no-deps --editable "$QUICKNAT_SOURCE"
