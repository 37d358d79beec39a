# Figures and the report page.
# Requires: histories, metrics, segmentations.
# Makes:    results/report/figures/*.png, results/report/index.html


rule curves:
    input:
        expand("results/models/{stage}/{view}/history.tsv", stage=STAGES, view=VIEWS),
    output:
        png=report(
            "results/report/figures/curves.png",
            caption="../report/curves.rst",
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
                caption=f"../report/{name}.rst",
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
    shell:
        "quicknat score-figures {input.metrics:q} --views {input.views:q}"
        " --confusion {input.confusion:q} --volumes <(printf '%s\\n' {input.volumes:q})"
        " --protocol {params.protocol:q} --output results/report/figures 2>&1 | tee {log:q}"


rule overlay:
    input:
        scan=CONFORMED,
        record=rules.convert.output.record,
        prediction="results/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz",
        reference=lambda wc: (
            "results/scans/{scan}/anat/{scan}_dseg.nii.gz" if SCANS[wc.scan].labels else []
        ),
    output:
        report(
            "results/report/figures/{scan}_overlay.png",
            caption="../report/overlay.rst",
            category="Segmentations",
            labels={"figure": "overlay", "scan": "{scan}"},
        ),
    log:
        "results/logs/overlay/{scan}.log",
    benchmark:
        "results/benchmarks/overlay/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        protocol=untracked(PROTOCOL),
        table=PROTOCOL_DIGEST,
        reference=lambda wc, input: (["--reference", input.reference] if input.reference else []),
    shell:
        "quicknat overlay {input.scan:q} {input.prediction:q} {params.reference:q}"
        " --protocol {params.protocol:q} --output {output:q} 2>&1 | tee {log:q}"


rule report:
    input:
        curves=rules.curves.output,
        scores=rules.score_figures.output if scans("test") else [],
        metrics=rules.metrics.output if scans("test") else [],
        overlays=expand("results/report/figures/{scan}_overlay.png", scan=SEGMENTED),
        qc=expand("results/segmentations/{scan}/anat/{scan}_desc-quicknat_qc.json", scan=SEGMENTED),
        volumes="results/segmentations/volumes.tsv" if SEGMENTED else [],
        bundle="results/model/bundle.json",
    output:
        "results/report/index.html",
    log:
        "results/logs/report/page.log",
    benchmark:
        "results/benchmarks/report/page.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        # what is in these files is compared rather than where they are, so that they can move
        sheet=untracked(SHEET),
        schema=untracked(SHEET_SCHEMA),
        template=untracked(TEMPLATE),
        protocol=untracked(PROTOCOL),
        note=untracked(["--note", COHORT_NOTE] if os.path.exists(COHORT_NOTE) else []),
        people=untracked(["--participants", PEOPLE] if os.path.exists(PEOPLE) else []),
        contents=[PROTOCOL_DIGEST, *map(file_digest, (TEMPLATE, COHORT_NOTE, PEOPLE))],
        title=Path(SHEET).stem,
        cohort=[f"{name} {scan.use}" for name, scan in SCANS.items()],
        segmented=SEGMENTED,
        waiting=WAITING,
        # not an input: the table changes whenever files arrive
        check=["--check", CHECKED] if SKIPPED else [],
        skipped=SKIPPED,
    shell:
        "quicknat report {params.sheet:q} --schema {params.schema:q} --template {params.template:q}"
        " --protocol {params.protocol:q} --results results {params.note:q} {params.people:q}"
        " {params.check:q}"
        " --segmented <(printf '%s\\n' {params.segmented:q})"
        " --waiting <(printf '%s\\n' {params.waiting:q})"
        " --output {output:q} 2>&1 | tee {log:q}"
