# Cut scans into training slices; one job writes the three views of a scan.
# Requires: the conformed scan and its labels; to synthesize images, a raw label map and its
# conformed scan, if any.
# Makes:    results/slices/{view}/{scan}.npy   uint8 (n, 2, H, W): image, class index
#           results/slices/{view}/{scan}_tissues.npy   the same, with tissue indices as image
#           results/slices/{scan}.json, {scan}_tissues.json   window, and numbers of the slices kept


rule slice:
    input:
        scan=CONFORMED,
        record=RECORD,
        labels=lambda wc: conformed_labels(wc.scan),
    output:
        stacks=expand("<results>/slices/{view}/{{scan}}.npy", view=VIEWS),
        record="<results>/slices/{scan}.json",
    log:
        "<results>/logs/slice/{scan}.log",
    benchmark:
        "<results>/benchmarks/slice/{scan}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        **LABEL_TABLE,
        size=config["slices"]["size"],
        folder=subpath(output.record, parent=True),
    shell:
        "quicknat slice {input.scan:q} {input.labels:q} --protocol {params.protocol:q}"
        " --folder {params.folder:q} --name {wildcards.scan:q} --size {params.size}"
        " &> {log:q}"


rule slice_tissues:
    input:
        label_inputs,
        scan=lambda wc: CONFORMED if PLAN.scans[wc.scan].image else [],
        record=lambda wc: RECORD if PLAN.scans[wc.scan].image else [],
    output:
        stacks=expand("<results>/slices/{view}/{{scan}}_tissues.npy", view=VIEWS),
        record="<results>/slices/{scan}_tissues.json",
    log:
        "<results>/logs/slice_tissues/{scan}.log",
    benchmark:
        "<results>/benchmarks/slice_tissues/{scan}.tsv"
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        **LABEL_TABLE,
        labels=row("labels"),
        orientation=row("labels_orientation"),
        label_convention=row("label_convention"),
        scan=lambda wc, input: ["--scan", input.scan] if input.scan else [],
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        window=config["slices"]["size"],
        grid_format=GRID_FORMAT,
        folder=subpath(output.record, parent=True),
    shell:
        "quicknat slice-tissues {params.labels:q} --orientation={params.orientation:q}"
        " --label-convention {params.label_convention:q} {params.scan:q} --protocol {params.protocol:q}"
        " --folder {params.folder:q} --name {wildcards.scan:q}_tissues --spacing {params.spacing}"
        " --size {params.size:q} --slice-size {params.window:q} &> {log:q}"
