# The embedded demo cohort's deformed scans; nothing here concerns other cohorts.
# Requires: the two real heads CSI1 and CSI2 out of the img2fmri package.
# Makes:    results/raw/demo-oasis/disc1/...  OASIS-1 style Analyze pairs, image and label map
#           results/raw/demo-ixi/...          IXI style NIfTI, image only
DEMO_SOURCE = "img2fmri"
DEMO_HEADS = ("CSI1", "CSI2")
DEMO_HEAD = "img2fmri/derivatives/T1/sub-{head}_ses-16_anat_sub-{head}_ses-16_T1w.nii.gz"
DEMO_SCAN = "results/raw/demo-oasis/disc1/{head}x{number}_MR1"


def demo_head(wildcards):
    return f"results/raw/{DEMO_SOURCE}/" + DEMO_HEAD.format(head=wildcards.head)


def demo_seed(wildcards):
    """Each head and copy its own."""
    return 100 * (1 + DEMO_HEADS.index(wildcards.head)) + int(wildcards.number)


wildcard_constraints:
    head="|".join(DEMO_HEADS),
    number=r"\d+",


rule demo_oasis:
    input:
        ancient(f"results/raw/{DEMO_SOURCE}.members.txt"),
    output:
        image=DEMO_SCAN + "/RAW/{head}x{number}_MR1_mpr-1_anon.img",
        image_header=DEMO_SCAN + "/RAW/{head}x{number}_MR1_mpr-1_anon.hdr",
        labels=DEMO_SCAN + "/SEG/{head}x{number}_MR1_seg.img",
        labels_header=DEMO_SCAN + "/SEG/{head}x{number}_MR1_seg.hdr",
    params:
        head=demo_head,
        seed=demo_seed,
    log:
        "results/logs/demo/{head}x{number}.log",
    benchmark:
        "results/benchmarks/demo/{head}x{number}.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "quicknat demo-scan {wildcards.head:q} {params.head:q} --seed {params.seed}"
        " --output {output.image:q} --labels {output.labels:q} --threads {threads}"
        " 2>&1 | tee {log:q}"


rule demo_ixi:
    input:
        ancient(f"results/raw/{DEMO_SOURCE}.members.txt"),
    output:
        "results/raw/demo-ixi/{head}x{number}-Demo-T1.nii.gz",
    params:
        head=demo_head,
        seed=demo_seed,
    log:
        "results/logs/demo/{head}x{number}.log",
    benchmark:
        "results/benchmarks/demo/{head}x{number}.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "quicknat demo-scan {wildcards.head:q} {params.head:q} --seed {params.seed}"
        " --output {output:q} --threads {threads} 2>&1 | tee {log:q}"
