#!/usr/bin/env bash
# conda made the environment; the `quicknat` of this workflow goes into it, so that jobs run its code
# with these packages. It is taken from the current folder, or from $QUICKNAT_SOURCE.
set -euo pipefail
python -m pip install --quiet --no-deps --editable "${QUICKNAT_SOURCE:-.}"
