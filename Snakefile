# QuickNAT as a Snakemake workflow. The rule files are in processing order.
# docs/explanation/architecture.md has the overview.
from snakemake.utils import min_version

min_version("9.20")


# found beside this file from any --directory; --configfile overlays are merged over it
configfile: f"{workflow.current_basedir}/config.yaml"


include: "workflow/rules/common.smk"


container: config["container"]


include: "workflow/rules/download.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/autolabel.smk"
include: "workflow/rules/slice.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/pictures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/handlers.smk"


rule all:
    default_target: True
    input:
        # all products, so that deleted ones are made again
        rules.report.output,
        expand(
            "<results>/models/finetune/{view}/{file}",
            view=VIEWS if PLAN.stages else [],
            file=MODEL_FILES,
        ),
        BUNDLED,
        expand(f"{SEGMENTED}_dseg.nii.gz", scan=PLAN.single),
        expand(f"{CHUNK}/{{file}}.tsv", file=CHUNK_FILES, chunk=PLAN.chunks),
        rules.volumes.output if PLAN.segmented else [],
        rules.metrics.output.scores if PLAN.test else [],
    localrule: True
