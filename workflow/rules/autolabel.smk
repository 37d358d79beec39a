# Make labels for scans without any, by the configured method: one rule or the other.
# Requires: the conformed scan, and conformed labelled scans (atlas) or the raw scan (the others).
# Makes:    results/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz
#           results/freesurfer/{scan}/  recon-all's subject, on which an interrupted one goes on


rule auto_label:
    input:
        scan=CONFORMED,
        atlases=expand(CONFORMED, scan=ATLASES),
        labels=[conformed_labels(name) for name in ATLASES],
    output:
        "results/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz",
    log:
        "results/logs/auto_label/{scan}.log",
    benchmark:
        "results/benchmarks/auto_label/{scan}.tsv"
    wildcard_constraints:
        scan=SCAN_NAME if LABEL_METHOD == "atlas" else NOTHING,
    conda:
        "../../envs/imaging.yaml"
    params:
        atlases=lambda wc, input: [
            part
            for pair in zip(input.atlases, input.labels)
            for part in ("--atlas", pair[0], "--atlas-labels", pair[1])
        ],
        seed=config["training"]["seed"],
    shell:
        "quicknat auto-label {input.scan:q} {params.atlases:q} --seed {params.seed}"
        " --threads {threads} --output {output:q} 2>&1 | tee {log:q}"


rule auto_label_external:
    input:
        lambda wc: PLACES.inputs(SCANS[wc.scan].source, SCANS[wc.scan].image),
        scan=CONFORMED,
    output:
        "results/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz",
    log:
        "results/logs/auto_label_external/{scan}.log",
    benchmark:
        "results/benchmarks/auto_label_external/{scan}.tsv"
    wildcard_constraints:
        scan=SCAN_NAME if LABEL_METHOD != "atlas" else NOTHING,
    conda:
        f"../../envs/{'samseg' if LABEL_METHOD == 'samseg' else 'imaging'}.yaml"
    threads: 4  # so that few run at once: each takes up to 8 GB
    resources:
        gpu=0,
    params:
        image=lambda wc: PLACES.path(SCANS[wc.scan].source, SCANS[wc.scan].image),
        orientation=lambda wc: PLACES.orientation(SCANS[wc.scan], SCANS[wc.scan].source),
        method=LABEL_METHOD,
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        subjects=config["auto_labels"]["subjects_dir"],
        license=untracked(config["auto_labels"]["license"]),
    shell:
        "quicknat auto-label {input.scan:q} --method {params.method:q} --image {params.image:q}"
        " --orientation={params.orientation:q} --protocol {params.protocol:q}"
        " --subjects-dir {params.subjects:q} --license={params.license:q} --gpus {resources.gpu}"
        " --threads {threads} --output {output:q} 2>&1 | tee {log:q}"
