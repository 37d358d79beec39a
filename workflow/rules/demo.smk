# The embedded demo cohort's deformed scans; nothing here concerns other cohorts.
# Requires: the two real heads CSI1 and CSI2 out of the img2fmri package.
# Makes:    results/raw/demo-oasis/disc1/...  OASIS-1 style Analyze pairs, image and label map
#           results/raw/demo-ixi/...          IXI style NIfTI, image only
DEMO_SOURCE = "img2fmri"  # the package whose heads are deformed
DEMO_HEAD = "img2fmri/derivatives/T1/sub-{head}_ses-16_anat_sub-{head}_ses-16_T1w.nii.gz"


rule demo_oasis:
    input:
        f"{RAW}/{DEMO_SOURCE}.members.txt",
    output:
        image=f"{RAW}/demo-oasis/disc1/{{head}}x{{number}}_MR1/RAW/"
        "{head}x{number}_MR1_mpr-1_anon.img",
        image_header=f"{RAW}/demo-oasis/disc1/{{head}}x{{number}}_MR1/RAW/"
        "{head}x{number}_MR1_mpr-1_anon.hdr",
        labels=f"{RAW}/demo-oasis/disc1/{{head}}x{{number}}_MR1/SEG/{{head}}x{{number}}_MR1_seg.img",
        labels_header=f"{RAW}/demo-oasis/disc1/{{head}}x{{number}}_MR1/SEG/"
        "{head}x{number}_MR1_seg.hdr",
    log:
        "results/logs/demo/{head}x{number}.log",
    benchmark:
        "results/benchmarks/demo/{head}x{number}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        head=lambda wc: f"{RAW}/{DEMO_SOURCE}/{DEMO_HEAD.format(head=wc.head)}",
        # each head and copy its own
        seed=lambda wc: 100 * (1 + DEMO_HEADS.index(wc.head)) + int(wc.number),
    shell:
        "quicknat demo-scan {wildcards.head:q} {params.head:q} --seed {params.seed}"
        " --output {output.image:q} --labels {output.labels:q} --threads {threads}"
        " 2>&1 | tee {log:q}"


rule demo_ixi:
    input:
        f"{RAW}/{DEMO_SOURCE}.members.txt",
    output:
        f"{RAW}/demo-ixi/{{head}}x{{number}}-Demo-T1.nii.gz",
    log:
        "results/logs/demo/{head}x{number}.log",
    benchmark:
        "results/benchmarks/demo/{head}x{number}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        head=lambda wc: f"{RAW}/{DEMO_SOURCE}/{DEMO_HEAD.format(head=wc.head)}",
        # each head and copy its own
        seed=lambda wc: 100 * (1 + DEMO_HEADS.index(wc.head)) + int(wc.number),
    shell:
        "quicknat demo-scan {wildcards.head:q} {params.head:q} --seed {params.seed}"
        " --output {output:q} --threads {threads} 2>&1 | tee {log:q}"
