# Conform every scan and bring its labels into the protocol.
# Requires: the raw image (and label map) of a row of the sheet.
# Makes:    results/scans/{scan}/anat/{scan}_space-conformed_T1w.nii.gz + .json
#           ..._space-conformed_dseg.nii.gz  given labels, conformed grid
#           ..._dseg.nii.gz                  given labels, the scan's own grid


rule convert:
    input:
        lambda wc: PLACES.inputs(SCANS[wc.scan].source, SCANS[wc.scan].image),
    output:
        image=CONFORMED,
        record="results/scans/{scan}/anat/{scan}_space-conformed_T1w.json",
    log:
        "results/logs/convert/{scan}.log",
    benchmark:
        "results/benchmarks/convert/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        image=lambda wc: PLACES.path(SCANS[wc.scan].source, SCANS[wc.scan].image),
        orientation=lambda wc: PLACES.orientation(SCANS[wc.scan], SCANS[wc.scan].source),
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        grid_format=GRID_FORMAT,  # what was conformed otherwise is conformed again
    shell:
        "quicknat convert {params.image:q} --orientation={params.orientation:q}"
        " --spacing {params.spacing} --size {params.size} --output {output.image:q}"
        " 2>&1 | tee {log:q}"


rule convert_labels:
    input:
        lambda wc: PLACES.inputs(SCANS[wc.scan].labels_source, SCANS[wc.scan].labels),
        scan=CONFORMED,
    output:
        conformed="results/scans/{scan}/anat/{scan}_space-conformed_dseg.nii.gz",
        native="results/scans/{scan}/anat/{scan}_dseg.nii.gz",
    log:
        "results/logs/convert_labels/{scan}.log",
    benchmark:
        "results/benchmarks/convert_labels/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        labels=lambda wc: PLACES.path(SCANS[wc.scan].labels_source, SCANS[wc.scan].labels),
        orientation=lambda wc: PLACES.orientation(SCANS[wc.scan], SCANS[wc.scan].labels_source),
        label_convention=lambda wc: SCANS[wc.scan].label_convention,
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
    shell:
        "quicknat convert-labels {params.labels:q} --orientation={params.orientation:q}"
        " --label-convention {params.label_convention:q} --scan {input.scan:q}"
        " --protocol {params.protocol:q} --output {output.conformed:q} --native {output.native:q}"
        " 2>&1 | tee {log:q}"
