# Cut scans into training slices; one job writes the three views of a scan.
# Requires: the conformed scan and its labels.
# With keep_slices: false the stacks go once the views are trained, but for those of validation scans:
# both stages look at these, so that fine-tuning would have pre-training done again by making them.
# Makes:    results/slices/{view}/{scan}.npy   uint8 (n, 2, H, W): image, class index
#           results/slices/{scan}.json         window and numbers of the slices kept


rule slice:
    input:
        scan=CONFORMED,
        labels=lambda wc: conformed_labels(wc.scan),
    output:
        stacks=[
            path if config["keep_slices"] else temp(path)
            for path in expand("results/slices/{view}/{{scan}}.npy", view=VIEWS)
        ],
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
        min_foreground=config["slices"]["min_foreground"],
    shell:
        "quicknat slice {input.scan:q} {input.labels:q} --protocol {params.protocol:q}"
        " --folder results/slices --name {wildcards.scan:q} --size {params.size}"
        " --min-foreground {params.min_foreground} 2>&1 | tee {log:q}"


use rule slice as slice_for_both_stages with:
    output:
        stacks=expand("results/slices/{view}/{{scan}}.npy", view=VIEWS),
        record="results/slices/{scan}.json",
    wildcard_constraints:
        scan=NOTHING if config["keep_slices"] else "|".join(scans("val")) or NOTHING,


ruleorder: slice_for_both_stages > slice
