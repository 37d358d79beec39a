# Figures and the report page.
# Requires: histories, metrics, segmentations.
# Makes:    results/report/index.html           the cohort
#           results/report/{scan}.html          each segmented scan
#           results/report/{figures,volumes,assets}/


rule curves:
    input:
        expand("results/models/{stage}/{view}/history.tsv", stage=STAGES, view=VIEWS),
    output:
        png=report(
            "results/report/figures/curves.png",
            caption=f"{TEMPLATES}/curves.rst",
            category="Training",
            labels={"figure": "learning curves"},
        ),
        svg="results/report/figures/curves.svg",
    log:
        "results/logs/curves/all.log",
    benchmark:
        "results/benchmarks/curves/all.tsv"
    conda:
        "../../envs/imaging.yaml"
    shell:
        "quicknat curves {input:q} --output {output.png:q} 2>&1 | tee {log:q}"


SCORE_FIGURES = {
    "dice": "Dice per structure",
    "views": "each view and all three",
    "hd95": "HD95 per structure",
    "volumes": "volumes against reference",
    "bland_altman": "volumes, Bland–Altman",
    "confusion": "confused structures",
    "uncertainty": "uncertainty against Dice",
}


LIBRARIES = ("niivue", "datatables") if config["report"]["interactive"] else ()
# a cohort may bring a note on what its scores mean, and who was scanned
COHORT_FILES = {"note": COHORT_NOTE, "participants": PEOPLE}
REPORT_OPTIONS = [
    *("--protocol", PROTOCOL),
    *(f"--{name}={path}" for name, path in COHORT_FILES.items() if os.path.exists(path)),
    *([f"--given-model={config['model']}"] if MODEL else []),
    # not an input: the table changes whenever files arrive
    *([f"--check={CHECKED}"] if SKIPPED else []),
]
TEMPLATE_FILES = sorted(str(path) for path in TEMPLATES.rglob("*") if path.is_file())


rule score_figures:
    input:
        metrics=rules.metrics.output.scores,
        views=rules.metrics.output.views,
        confusion=rules.metrics.output.confusion,
        # of the test scans alone, so that others to segment draw nothing again
        volumes=expand(rules.segment.output.volumes, scan=scans("test")),
    output:
        expand("results/report/figures/{name}.svg", name=SCORE_FIGURES),
        **{
            name: report(
                f"results/report/figures/{name}.png",
                caption=f"{TEMPLATES}/{name}.rst",
                category="Scores",
                labels={"figure": title},
            )
            for name, title in SCORE_FIGURES.items()
        },
    log:
        "results/logs/score_figures/all.log",
    benchmark:
        "results/benchmarks/score_figures/all.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        sheet=untracked(SHEET),
        # what the sheet is read for: means are over people
        persons=[f"{name} {SCANS[name].person}" for name in scans("test")],
    shell:
        "quicknat score-figures {input.metrics:q} --views {input.views:q}"
        " --confusion {input.confusion:q} --volumes <(printf '%s\\n' {input.volumes:q})"
        " --sheet {params.sheet:q} --protocol {params.protocol:q}"
        " --output results/report/figures 2>&1 | tee {log:q}"


rule report:
    input:
        curves=rules.curves.output if STAGES else [],
        scores=rules.score_figures.output if scans("test") else [],
        metrics=rules.metrics.output if scans("test") else [],
        pictures=expand(rules.pictures.output, scan=SEGMENTED),
        libraries=expand(f"{RAW}/{{source}}.archive", source=LIBRARIES),
        qc=expand("results/segmentations/{scan}/anat/{scan}_desc-quicknat_qc.json", scan=SEGMENTED),
        volumes="results/segmentations/volumes.tsv" if SEGMENTED else [],
        bundle="results/model/bundle.json",
    output:
        page="results/report/index.html",
        pages=expand("results/report/{scan}.html", scan=SEGMENTED),
        assets=directory("results/report/assets"),
    log:
        "results/logs/report/page.log",
    benchmark:
        "results/benchmarks/report/page.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        # what is in these files is compared rather than where they are, so that they can move
        sheet=untracked(SHEET),
        options=untracked(REPORT_OPTIONS),
        contents=[PROTOCOL_DIGEST, *map(file_digest, (*TEMPLATE_FILES, COHORT_NOTE, PEOPLE))],
        # derived from outputs, as Snakemake sees it: where they lie reruns nothing
        libraries=lambda wc, input, output: [
            f"--{name}={path}" for name, path in zip(LIBRARIES, input.libraries)
        ],
        title=Path(SHEET).stem,
        cohort=[f"{name} {scan.use}" for name, scan in SCANS.items()],
        segmented=SEGMENTED,
        skipped=SKIPPED,
    shell:
        "quicknat report {params.sheet:q} --results results {params.options:q} {params.libraries:q}"
        " --segmented <(printf '%s\\n' {params.segmented:q})"
        " --output {output.page:q} 2>&1 | tee {log:q}"
