# Make the deformed scans of the demo cohort; not used by other cohorts.
# Requires: the two real heads CSI1 and CSI2 from the img2fmri package.
# Makes:    results/raw/demo-oasis/...  OASIS-1 style Analyze pairs, images and label maps
#           results/raw/demo-ixi/...    IXI style NIfTI, images only
#           results/raw/demo-{oasis,ixi}.members.txt  lists of these


rule demo:
    input:
        local(f"{RAW}/img2fmri.members.txt"),
    output:
        local(f"{RAW}/{{source}}.members.txt"),
    log:
        "<results>/logs/demo/{source}.log",
    benchmark:
        "<results>/benchmarks/demo/{source}.tsv"
    wildcard_constraints:
        source="demo-oasis|demo-ixi",
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        images=lambda wc: [s.image for s in PLAN.scans.values() if s.source == wc.source],
        heads=f"{RAW}/img2fmri/img2fmri/derivatives/T1",
        folder=subpath(output[0], strip_suffix=".members.txt"),
    shell:
        "quicknat demo {params.images:q} --heads {params.heads:q} --folder {params.folder:q}"
        " --manifest {output:q} --threads {threads} &> {log:q}"
