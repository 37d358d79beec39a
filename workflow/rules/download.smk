# Fetch archives and unpack what the sheet names.
# Requires: workflow/sources.tsv (url, checksum), the sheet (paths inside each source).
# Makes:    results/raw/{source}.archive
#           results/raw/{source}/...          the members
#           results/raw/{source}.members.txt  their list


def members(source):
    """Paths or globs of the members of an archive that any row of the sheet needs."""
    wanted = {scan.image for scan in SCANS.values() if scan.source == source}
    wanted |= {scan.labels for scan in SCANS.values() if scan.labels_source == source}
    if source == DEMO_SOURCE and any(scan.source.startswith("demo-") for scan in SCANS.values()):
        wanted |= {DEMO_HEAD.format(head=head) for head in DEMO_HEADS}
    return sorted(wanted - {""})


rule download:
    output:
        "results/raw/{source}.archive",
    params:
        sources=in_workflow(config["sources"]),
        what=lambda wc: [SOURCES[wc.source][key] for key in ("kind", "url", "checksum")],
    log:
        "results/logs/download/{source}.log",
    benchmark:
        "results/benchmarks/download/{source}.tsv"
    conda:
        "../../envs/imaging.yaml"
    shell:
        "quicknat download {params.sources:q} {wildcards.source:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule unpack:
    input:
        "results/raw/{source}.archive",
    output:
        "results/raw/{source}.members.txt",
    params:
        members=lambda wc: [part for path in members(wc.source) for part in ("--member", path)],
        folder=lambda wc: f"results/raw/{wc.source}",
    log:
        "results/logs/unpack/{source}.log",
    benchmark:
        "results/benchmarks/unpack/{source}.tsv"
    conda:
        "../../envs/imaging.yaml"
    shell:
        "quicknat unpack {input:q} {params.members:q} --folder {params.folder:q}"
        " --manifest {output:q} 2>&1 | tee {log:q}"
