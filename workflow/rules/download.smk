# Download archives and extract the members that the workflow uses; make the demo cohort's scans.
# Requires: workflow/sources.tsv (kind, url, mirrors, checksum, members).
# Makes:    results/raw/{source}.archive
#           results/raw/{source}/...          the members
#           results/raw/{source}.members.txt  their list
#           results/raw/demo-oasis/...        OASIS-1 style Analyze pairs, images and label maps
#           results/raw/demo-ixi/...          IXI style NIfTI, images only
#
# `download` is a local rule: on a cluster it runs where snakemake runs, since compute nodes often have
# no internet. A broken transfer leaves a hidden file, from which it is resumed. Without any internet:
# QUICKNAT_DOWNLOADS=folder with the archives, QUICKNAT_OFFLINE=1.
from quicknat.download.fetch import public

ARCHIVES = "|".join(
    name for name, row in PATHS.sources.items() if row.kind not in ("local", "demo")
)


rule download:
    output:
        local(f"{RAW}/{{source}}.archive"),
    log:
        "<results>/logs/download/{source}.log",
    benchmark:
        "<results>/benchmarks/download/{source}.tsv"
    wildcard_constraints:
        source=ARCHIVES,
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        sources=untracked(RUN.sources),
        # no mirrors, so that a new one does not rerun this; no password, since logs show this
        what=lambda wc: [
            public(getattr(PATHS.sources[wc.source], key)) for key in ("kind", "url", "checksum")
        ],
    shell:
        "quicknat download {params.sources:q} {wildcards.source:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule unpack:
    input:
        local(f"{RAW}/{{source}}.archive"),
    output:
        local(f"{RAW}/{{source}}.members.txt"),
    log:
        "<results>/logs/unpack/{source}.log",
    benchmark:
        "<results>/benchmarks/unpack/{source}.tsv"
    wildcard_constraints:
        source=ARCHIVES,
    localrule: STORAGE
    conda:
        "../../envs/torch.yaml"
    params:
        sources=untracked(RUN.sources),
        members=lambda wc: [
            f"--member={glob}" for glob in PATHS.sources[wc.source].members.split(",")
        ],
        folder=subpath(output[0], strip_suffix=".members.txt"),
    shell:
        "quicknat unpack {input:q} {params.members:q} --folder {params.folder:q}"
        " --manifest {output:q} &> {log:q}"


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
