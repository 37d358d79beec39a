# Segment the scans of the splits test and segment with the model, on their native grids.
# Requires: results/model/ and the conformed scan with its sidecar.
# Makes:    results/segmentations/{scan}/anat/{scan}_desc-quicknat_{dseg,volumes,qc,uncertainty}.*
#           results/segmentations/{scan}/anat/{scan}_desc-{view}_dseg.nii.gz  each view alone
#           results/segmentations/volumes.tsv  all scans


rule segment:
    input:
        model=BUNDLED,
        scan=CONFORMED,
        record=rules.convert.output.record,
    output:
        dseg="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz",
        table="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.tsv",
        volumes="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_volumes.tsv",
        qc="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_qc.json",
        provenance="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.json",
        uncertainty="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_uncertainty.nii.gz",
        coronal="<results>/segmentations/{scan}/anat/{scan}_desc-coronal_dseg.nii.gz",
        axial="<results>/segmentations/{scan}/anat/{scan}_desc-axial_dseg.nii.gz",
        sagittal="<results>/segmentations/{scan}/anat/{scan}_desc-sagittal_dseg.nii.gz",
    log:
        "<results>/logs/segment/{scan}.log",
    benchmark:
        "<results>/benchmarks/segment/{scan}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        # reproducible fp32 in training implies the same here
        precision="fp32" if config["training"]["precision"] == "32-true" else "auto",
        model=subpath(input[0], parent=True),
        folder=subpath(output.dseg, ancestor=3),
    shell:
        "quicknat segment {input.scan:q} --conformed --views --name {wildcards.scan:q}"
        " --model {params.model:q} --output {params.folder:q} --threads {threads}"
        " --precision {params.precision:q}"
        " 2>&1 | tee {log:q}"


rule volumes:
    input:
        expand(
            "<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_volumes.tsv",
            scan=PLAN.segmented,
        ),
    output:
        "<results>/segmentations/volumes.tsv",
    log:
        "<results>/logs/volumes/all.log",
    benchmark:
        "<results>/benchmarks/volumes/all.tsv"
    conda:
        "../../envs/imaging.yaml"
    shell:
        "quicknat gather <(printf '%s\\n' {input:q}) --subject-from-name --output {output:q}"
        " 2>&1 | tee {log:q}"
