# What the report shows of one scan: overlay, mosaics with their layers, volumes for the viewer.
# Requires: the conformed scan (its sidecar names the original), segmentation, given labels if any.
# Makes:    results/report/figures/{scan}_overlay.png, results/report/figures/{scan}/
#           results/report/volumes/{scan}.js


rule pictures:
    input:
        scan=CONFORMED,
        record=rules.convert.output.record,
        prediction=rules.segment.output.dseg,
        uncertainty=rules.segment.output.uncertainty,
        reference=lambda wc: (
            "results/scans/{scan}/anat/{scan}_dseg.nii.gz"
            if SCANS[wc.scan].split == "test"
            else []
        ),
    output:
        overlay=report(
            "results/report/figures/{scan}_overlay.png",
            caption=f"{TEMPLATES}/overlay.rst",
            category="Segmentations",
            labels={"figure": "overlay", "scan": "{scan}"},
        ),
        mosaics=directory("results/report/figures/{scan}"),
        volumes="results/report/volumes/{scan}.js",
    log:
        "results/logs/pictures/{scan}.log",
    benchmark:
        "results/benchmarks/pictures/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        protocol=untracked(PROTOCOL),
        table=PROTOCOL_DIGEST,
        reference=lambda wc, input: (["--reference", input.reference] if input.reference else []),
    shell:
        "quicknat scan-pictures {input.scan:q} {input.prediction:q} {params.reference:q}"
        " --uncertainty {input.uncertainty:q} --protocol {params.protocol:q}"
        " --overlay {output.overlay:q} --mosaics {output.mosaics:q} --volumes {output.volumes:q}"
        " 2>&1 | tee {log:q}"
