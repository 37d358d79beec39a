# Label scans that have no labels, with the rule of the configured method.
# Requires: the conformed scan, and conformed labelled scans (atlas) or the raw scan (others).
# Makes:    results/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz
#           results/freesurfer/{scan}/  recon-all's subject, from which it resumes
METHOD = config["auto_labels"]["method"]

if METHOD == "atlas":

    rule auto_label:
        input:
            scan=CONFORMED,
            records=[RECORD, *expand(RECORD, scan=PLAN.atlases)] if STORAGE else [],
            atlases=expand(CONFORMED, scan=PLAN.atlases),
            labels=[conformed_labels(name) for name in PLAN.atlases],
        output:
            "<results>/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz",
        log:
            "<results>/logs/auto_label/{scan}.log",
        benchmark:
            "<results>/benchmarks/auto_label/{scan}.tsv"
        conda:
            "../../envs/torch.yaml"
        params:
            atlases=lambda wc, input: [
                part
                for pair in zip(input.atlases, input.labels)
                for part in ("--atlas", pair[0], "--atlas-labels", pair[1])
            ],
            seed=config["training"]["seed"],
        shell:
            "quicknat auto-label {input.scan:q} {params.atlases:q} --seed {params.seed}"
            " --threads {threads} --output {output:q} &> {log:q}"

else:

    rule auto_label_external:
        input:
            image_inputs,
            scan=CONFORMED,
            record=RECORD,
        output:
            "<results>/scans/{scan}/anat/{scan}_space-conformed_desc-auto_dseg.nii.gz",
        log:
            "<results>/logs/auto_label_external/{scan}.log",
        benchmark:
            "<results>/benchmarks/auto_label_external/{scan}.tsv"
        localrule: STORAGE
        conda:
            f"../../envs/{'samseg' if METHOD == 'samseg' else 'torch'}.yaml"
        threads: 4  # to limit parallel jobs: each needs up to 8 GB
        resources:
            gpu=0,
        params:
            **LABEL_TABLE,
            method=METHOD,
            subjects=config["auto_labels"]["subjects_dir"],
            license=untracked(config["auto_labels"]["license"]),
        shell:
            "quicknat auto-label {input.scan:q} --method {params.method:q} --protocol {params.protocol:q}"
            " --subjects-dir {params.subjects:q} --license={params.license:q} --gpus {resources.gpu}"
            " --threads {threads} --output {output:q} &> {log:q}"
