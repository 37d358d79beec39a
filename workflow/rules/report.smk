# Draw the cohort's figures, and write the report's pages.
# Requires: histories, metrics, segmentations.
# Makes:    results/report/index.html           the cohort
#           results/report/{scan}.html          each segmented scan, except for those of chunks
#           results/report/{figures,volumes,assets}/
from quicknat.package_data import SCORE_FIGURES
from quicknat.report.inputs import ENDS, cohort_files, session_tables


report: f"{TEMPLATES}/workflow.rst"


REPORT_OPTIONS = [
    *("--protocol", config["protocol"]),
    *([f"--given-model={config['model']}"] if RUN.model else []),
    *([] if config["report"]["interactive"] else ["--static"]),
    *(f"--chunk={chunk}" for chunk in PLAN.chunks),
]


FIGURES = ({"curves": "learning curves"} if PLAN.stages else {}) | (
    SCORE_FIGURES if PLAN.test else {}
)
REPORTED = [
    *BUNDLED,
    *expand(f"{SEGMENTED}_{{end}}", scan=PLAN.single, end=ENDS),
    *expand("<results>/metrics/{scan}.tsv", scan=PLAN.test),
    *expand(
        "<results>/models/{stage}/{view}/{file}", stage=PLAN.stages, view=VIEWS, file=MODEL_FILES
    ),
]


rule report:
    input:
        histories=expand(
            "<results>/models/{stage}/{view}/history.tsv", stage=PLAN.stages, view=VIEWS
        ),
        metrics=rules.metrics.output if PLAN.test else [],
        pictures=expand(PICTURES, scan=PLAN.single),
        qc=expand(f"{SEGMENTED}_qc.json", scan=PLAN.single),
        chunks=expand(f"{CHUNK}/scans.tsv", chunk=PLAN.chunks),
        volumes=rules.volumes.output if PLAN.segmented else [],
        bundle="<results>/model/bundle.json",
        # read from the results folder, which storage leaves empty
        read=REPORTED if STORAGE else [],
    output:
        **{
            name: report(
                f"<results>/report/figures/{name}.png",
                caption=f"{TEMPLATES}/{name}.rst",
                category="Training" if name == "curves" else "Scores",
                labels={"figure": title},
            )
            for name, title in FIGURES.items()
        },
        page="<results>/report/index.html",
        pages=expand("<results>/report/{scan}.html", scan=PLAN.single),
        assets=directory("<results>/report/assets"),
        vector=expand("<results>/report/figures/{name}.svg", name=FIGURES),
    log:
        "<results>/logs/report/page.log",
    benchmark:
        "<results>/benchmarks/report/page.tsv"
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        # contents of files instead of paths, so that they can be moved
        sheet=untracked(PATHS.sheet),
        options=untracked(REPORT_OPTIONS),
        contents=lambda wildcards: [
            RUN.label_table_digest,
            *map(file_digest, sorted(path for path in TEMPLATES.rglob("*") if path.is_file())),
            *map(file_digest, cohort_files(PATHS.sheet).values()),
            *map(file_digest, session_tables(PLAN.scans.values(), PATHS.sheet)),
        ],
        interactive=config["report"]["interactive"],
        title=Path(PATHS.sheet).stem,
        cohort=[f"{name} {scan.split} {scan.participant}" for name, scan in PLAN.scans.items()],
        segmented=PLAN.single,
        skipped=RUN.skipped,
        check=untracked(RUN.skipped_table),
        results=subpath(input.bundle, ancestor=2),
    shell:
        "quicknat report {params.sheet:q} --results {params.results:q} {params.options:q}"
        " --segmented <(printf '%s\\n' {params.segmented:q})"
        " --check <(printf '%s' {params.check:q})"
        " --output {output.page:q} &> {log:q}"
