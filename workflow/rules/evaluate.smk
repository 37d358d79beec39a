# Compare the test scans' segmentations with their labels, on the scans' own grids.
# Requires: segmentation and native label map of each test scan.
# Makes:    results/metrics/{scan}.tsv, results/metrics.tsv


rule evaluate:
    input:
        prediction="results/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz",
        reference="results/scans/{scan}/anat/{scan}_dseg.nii.gz",
    output:
        "results/metrics/{scan}.tsv",
    log:
        "results/logs/evaluate/{scan}.log",
    benchmark:
        "results/benchmarks/evaluate/{scan}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
    shell:
        "quicknat evaluate {input.prediction:q} {input.reference:q} --protocol {params.protocol:q}"
        " --name {wildcards.scan:q} --threads {threads} --output {output:q} 2>&1 | tee {log:q}"


rule metrics:
    input:
        expand("results/metrics/{scan}.tsv", scan=scans("test")),
    output:
        "results/metrics.tsv",
    log:
        "results/logs/metrics/all.log",
    benchmark:
        "results/benchmarks/metrics/all.tsv"
    conda:
        "../../envs/imaging.yaml"
    shell:
        "quicknat gather <(printf '%s\\n' {input:q}) --output {output:q} 2>&1 | tee {log:q}"
