# QuickNAT as a Snakemake workflow. The rule files follow the way of the data.
# docs/explanation/design.md has the overview.
from snakemake.utils import min_version

min_version("9.0")


# found beside this file from any --directory; --configfile overlays are merged over it
configfile: f"{workflow.basedir}/config.yaml"


# bash's strict mode, which Snakemake's own prefix is, or a failed command before a pipe goes unseen;
# and a log that cannot be written must not cost the work that it is about: it is on the screen too
shell.prefix('set -euo pipefail; tee() {{ command tee "$@" || true; }}; ')


include: "workflow/rules/common.smk"
include: "workflow/rules/software.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/autolabel.smk"
include: "workflow/rules/slice.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/pictures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/ends.smk"


localrules:
    all,
    download,


rule all:
    default_target: True
    input:
        # every product, or one that somebody deletes would stay away
        rules.report.output,
        expand(
            "results/models/finetune/{view}/{file}", view=VIEWS if STAGES else [], file=MODEL_FILES
        ),
        BUNDLED,
        expand(rules.segment.output.dseg, scan=SEGMENTED),
        "results/segmentations/volumes.tsv" if SEGMENTED else [],
        "results/metrics.tsv" if scans("test") else [],
