# Draw the report's pictures of one scan: mosaics with layers, volumes for the viewer.
# Requires: the conformed scan (its sidecar names the original), segmentation, given labels if any.
# Makes:    results/report/figures/{scan}/, results/report/volumes/{scan}.js
from quicknat.package_data import TEMPLATES

PICTURES = [
    "<results>/report/figures/{scan}",
    "<results>/report/volumes/{scan}.js",
]


rule pictures:
    input:
        scan=CONFORMED,
        record=rules.convert.output.record,
        prediction=rules.segment.output.dseg,
        uncertainty=rules.segment.output.uncertainty,
        reference=lambda wc: rules.convert_labels.output.native if wc.scan in PLAN.test else [],
    output:
        mosaics=report(
            directory(PICTURES[0]),
            patterns=["{picture}.jpg"],  # the thumbnail
            caption=f"{TEMPLATES}/slices.rst",
            category="Segmentations",
            labels={"figure": "slices", "scan": "{scan}"},
        ),
        volumes=PICTURES[1],
    log:
        "<results>/logs/pictures/{scan}.log",
    benchmark:
        "<results>/benchmarks/pictures/{scan}.tsv"
    localrule: STORAGE  # it reads the original
    conda:
        "../../envs/torch.yaml"
    params:
        protocol=untracked(config["protocol"]),
        table=RUN.label_table_digest,
        reference=lambda wc, input: ["--reference", input.reference] if input.reference else [],
    shell:
        "quicknat scan-pictures {input.scan:q} {input.prediction:q} {params.reference:q}"
        " --uncertainty {input.uncertainty:q} --protocol {params.protocol:q}"
        " --mosaics {output.mosaics:q} --volumes {output.volumes:q}"
        " &> {log:q}"
