# Segment the scans of the splits test and segment with the model, on their native grids.
# Requires: results/model/ and the conformed scan with its sidecar.
# Makes:    results/segmentations/{scan}/anat/{scan}_desc-quicknat_{dseg,volumes,qc,uncertainty}.*
#           results/segmentations/{scan}/anat/{scan}_desc-{view}_dseg.nii.gz  each view alone
#           results/segmentations/{scan}/anat/{scan}_desc-brain_mask.{nii.gz,json}
#           results/segmentations/volumes.tsv, volumes_wide.tsv  all scans
#           results/chunks/{chunk}/{scans,volumes,volumes_wide}.tsv  of many scans of the split segment, segmented in
#                                                       one job, which skips finished ones
from quicknat.hardware import has_gpu

# one process for each GPU of a machine (`--resources gpu=N`, else one); the profile of a cluster says
# what its jobs get
GPU = int(workflow.local_exec and has_gpu())
GPUS = workflow.global_resources["gpu"].value if "gpu" in workflow.global_resources else 1
# without one two scans at a time on a laptop: much of a job is start-up, which takes one core
SEGMENT_THREADS = lambda wildcards: (
    max(1, (workflow.cores or 1) // max(1, GPUS))
    if GPU
    else max(1, min(4, (workflow.cores or 8) // 2))
)
# reproducible fp32 in training implies the same here; a given model was trained elsewhere
REPRODUCIBLE = config["training"]["precision"] == "32-true" and not RUN.model
PRECISION = "fp32" if REPRODUCIBLE else "auto"


rule segment:
    input:
        model=BUNDLED,
        scan=CONFORMED,
        record=rules.convert.output.record,
    output:
        dseg="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz",
        table="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.tsv",
        volumes="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_volumes.tsv",
        stats="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.stats",
        qc="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_qc.json",
        provenance="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_dseg.json",
        uncertainty="<results>/segmentations/{scan}/anat/{scan}_desc-quicknat_uncertainty.nii.gz",
        mask="<results>/segmentations/{scan}/anat/{scan}_desc-brain_mask.nii.gz",
        mask_sidecar="<results>/segmentations/{scan}/anat/{scan}_desc-brain_mask.json",
        coronal="<results>/segmentations/{scan}/anat/{scan}_desc-coronal_dseg.nii.gz",
        axial="<results>/segmentations/{scan}/anat/{scan}_desc-axial_dseg.nii.gz",
        sagittal="<results>/segmentations/{scan}/anat/{scan}_desc-sagittal_dseg.nii.gz",
    log:
        "<results>/logs/segment/{scan}.log",
    benchmark:
        "<results>/benchmarks/segment/{scan}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: SEGMENT_THREADS
    resources:
        gpu=GPU,
        mem_mb=4000,
    params:
        segmentation_format=SEGMENTATION_FORMAT,  # reruns scans that an earlier version segmented
        precision=PRECISION,
        model=subpath(input[0], parent=True),
        folder=subpath(output.dseg, ancestor=3),
    shell:
        "quicknat segment {input.scan:q} --conformed --views --name {wildcards.scan:q}"
        " --model {params.model:q} --output {params.folder:q} --threads {threads}"
        " --precision {params.precision:q} --folder-per-scan"
        " &> {log:q}"


rule segment_chunk:
    input:
        model="<results>/model/bundle.json",  # has checksums of the other files
        archives=archives,
    output:
        # not the scans' own files: Snakemake would remove those of finished scans before the job
        scans="<results>/chunks/{chunk}/scans.tsv",
        volumes="<results>/chunks/{chunk}/volumes.tsv",
        wide="<results>/chunks/{chunk}/volumes_wide.tsv",
    log:
        "<results>/logs/segment_chunk/{chunk}.log",
    benchmark:
        "<results>/benchmarks/segment_chunk/{chunk}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: SEGMENT_THREADS
    resources:
        gpu=GPU,
        mem_mb=4000,
    params:
        # raw scans: conforming one takes a second, which is worth neither a job nor a file
        scans=listed,
        # instead of inputs, which Snakemake would look at again whenever a job ends
        stamps=lambda wc: [PATHS.image_stamps(PLAN.scans[scan]) for scan in PLAN.chunks[wc.chunk]],
        allow_bad=untracked(["--allow-bad"] if config["on_bad_scan"] == "skip" else []),
        segmentation_format=SEGMENTATION_FORMAT,
        precision=PRECISION,
        model=subpath(input[0], parent=True),
        folder=f"{RESULTS}/segmentations",
        tables=subpath(output.scans, parent=True),
    shell:
        "quicknat segment --list <(printf '%s\\n' {params.scans:q}) --tables {params.tables:q}"
        " --model {params.model:q} --output {params.folder:q} --threads {threads}"
        " --precision {params.precision:q} --folder-per-scan {params.allow_bad:q}"
        " &> {log:q}"


rule volumes:
    input:
        tables=expand(f"{SEGMENTED}_volumes.tsv", scan=PLAN.single)
        + expand(f"{CHUNK}/volumes.tsv", chunk=PLAN.chunks),
        # what is read beside them
        stats=expand(f"{SEGMENTED}_dseg.stats", scan=PLAN.single),
        wide=expand(f"{CHUNK}/volumes_wide.tsv", chunk=PLAN.chunks),
    output:
        volumes="<results>/segmentations/volumes.tsv",
        wide="<results>/segmentations/volumes_wide.tsv",
    log:
        "<results>/logs/volumes/all.log",
    benchmark:
        "<results>/benchmarks/volumes/all.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        folder=subpath(output.volumes, parent=True),
    shell:
        "quicknat volumes <(printf '%s\\n' {input.tables:q}) --output {params.folder:q}"
        " &> {log:q}"
