# Compare the segmentations of test scans with their labels, on the native grids.
# Requires: segmentation and native label map of each test scan.
# Makes:    results/metrics/{scan}{,_views,_confusion}.tsv
#           results/metrics.tsv, results/metrics/{views,confusion}.tsv  all scans


rule evaluate:
    input:
        prediction="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz",
        reference="<results>/scans/{scan}/anat/{scan}_dseg.nii.gz",
        coronal=rules.segment.output.coronal,
        axial=rules.segment.output.axial,
        sagittal=rules.segment.output.sagittal,
    output:
        scores="<results>/metrics/{scan}.tsv",
        views="<results>/metrics/{scan}_views.tsv",
        confusion="<results>/metrics/{scan}_confusion.tsv",
    log:
        "<results>/logs/evaluate/{scan}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{scan}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        **LABEL_TABLE,
        # scores by an earlier version are computed again; 1 stays out, since its runs lack it
        **({"scores_format": SCORES_FORMAT} if SCORES_FORMAT > 1 else {}),
    shell:
        "quicknat evaluate {input.prediction:q} {input.reference:q} --protocol {params.protocol:q}"
        " --coronal {input.coronal:q} --axial {input.axial:q} --sagittal {input.sagittal:q}"
        " --name {wildcards.scan:q} --threads {threads} --output {output.scores:q}"
        " &> {log:q}"


rule metrics:
    input:
        scores=expand("<results>/metrics/{scan}.tsv", scan=PLAN.test),
        views=expand("<results>/metrics/{scan}_views.tsv", scan=PLAN.test),
        confusion=expand("<results>/metrics/{scan}_confusion.tsv", scan=PLAN.test),
    output:
        scores="<results>/metrics.tsv",
        views="<results>/metrics/views.tsv",
        confusion="<results>/metrics/confusion.tsv",
    log:
        "<results>/logs/metrics/all.log",
    benchmark:
        "<results>/benchmarks/metrics/all.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "{{ quicknat gather <(printf '%s\\n' {input.scores:q}) --output {output.scores:q};"
        " quicknat gather <(printf '%s\\n' {input.views:q}) --output {output.views:q};"
        " quicknat gather <(printf '%s\\n' {input.confusion:q}) --output {output.confusion:q}; }}"
        " &> {log:q}"
