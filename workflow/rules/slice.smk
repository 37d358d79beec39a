# Cut scans into training slices; one job writes the three views of a scan.
# Requires: the conformed scan and its labels; to synthesize images from, a raw label map, and the
# conformed scan that it belongs to if there is one.
# Makes:    results/slices/{view}/{scan}.npy   uint8 (n, 2, H, W): image, class index
#           results/slices/{view}/{scan}_tissues.npy   the same with tissue indices for an image
#           results/slices/{scan}.json, {scan}_tissues.json   window and numbers of the slices kept


rule slice:
    input:
        scan=CONFORMED,
        labels=lambda wc: conformed_labels(wc.scan),
    output:
        stacks=expand("results/slices/{view}/{{scan}}.npy", view=VIEWS),
        record="results/slices/{scan}.json",
    log:
        "results/logs/slice/{scan}.log",
    benchmark:
        "results/benchmarks/slice/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        size=config["slices"]["size"],
    shell:
        "quicknat slice {input.scan:q} {input.labels:q} --protocol {params.protocol:q}"
        " --folder results/slices --name {wildcards.scan:q} --size {params.size}"
        " 2>&1 | tee {log:q}"


rule slice_tissues:
    input:
        lambda wc: PLACES.inputs(SCANS[wc.scan].labels_source, SCANS[wc.scan].labels),
        scan=lambda wc: CONFORMED.format(scan=wc.scan) if SCANS[wc.scan].image else [],
    output:
        stacks=expand("results/slices/{view}/{{scan}}_tissues.npy", view=VIEWS),
        record="results/slices/{scan}_tissues.json",
    log:
        "results/logs/slice_tissues/{scan}.log",
    benchmark:
        "results/benchmarks/slice_tissues/{scan}.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        labels=lambda wc: PLACES.path(SCANS[wc.scan].labels_source, SCANS[wc.scan].labels),
        orientation=lambda wc: PLACES.orientation(SCANS[wc.scan], SCANS[wc.scan].labels_source),
        numbering=lambda wc: SCANS[wc.scan].protocol,
        scan=lambda wc, input: ["--scan", input.scan] if input.scan else [],
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        window=config["slices"]["size"],
        grid_format=GRID_FORMAT,
    shell:
        "quicknat slice-tissues {params.labels:q} --orientation={params.orientation:q}"
        " --numbering {params.numbering:q} {params.scan:q} --protocol {params.protocol:q}"
        " --folder results/slices --name {wildcards.scan:q}_tissues --spacing {params.spacing}"
        " --size {params.size:q} --slice-size {params.window:q} 2>&1 | tee {log:q}"
