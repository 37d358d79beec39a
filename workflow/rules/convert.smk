# Conform every scan, and map its labels to the protocol's classes.
# Requires: the raw image (and label map) of a row of the sheet.
# Makes:    results/scans/{scan}/anat/{scan}_space-conformed_T1w.nii.gz + .json
#           ..._space-conformed_dseg.nii.gz  given labels, conformed grid
#           ..._dseg.nii.gz                  given labels, the scan's own grid


rule convert:
    input:
        image_inputs,
    output:
        image=CONFORMED,
        record="<results>/scans/{scan}/anat/{scan}_space-conformed_T1w.json",
    log:
        "<results>/logs/convert/{scan}.log",
    benchmark:
        "<results>/benchmarks/convert/{scan}.tsv"
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        image=row("image"),
        orientation=row("orientation"),
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        grid_format=GRID_FORMAT,  # reruns scans that were conformed to another grid
    shell:
        "quicknat convert {params.image:q} --orientation={params.orientation:q}"
        " --spacing {params.spacing} --size {params.size} --output {output.image:q}"
        " &> {log:q}"


rule convert_labels:
    input:
        label_inputs,
        scan=CONFORMED,
        record=RECORD,
    output:
        conformed="<results>/scans/{scan}/anat/{scan}_space-conformed_dseg.nii.gz",
        native="<results>/scans/{scan}/anat/{scan}_dseg.nii.gz",
    log:
        "<results>/logs/convert_labels/{scan}.log",
    benchmark:
        "<results>/benchmarks/convert_labels/{scan}.tsv"
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        **LABEL_TABLE,
        labels=row("labels"),
        orientation=row("labels_orientation"),
        label_convention=row("label_convention"),
    shell:
        "quicknat convert-labels {params.labels:q} --orientation={params.orientation:q}"
        " --label-convention {params.label_convention:q} --scan {input.scan:q}"
        " --protocol {params.protocol:q} --output {output.conformed:q} --native {output.native:q} &> {log:q}"
