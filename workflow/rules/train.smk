# Train the three views, independently: on automatic labels first, then on the given ones.
# Requires: the stacks of the pretrain, train and val scans.
# Makes:    results/models/{stage}/{view}/   model.safetensors, model.json, history.tsv
#           results/model/                   the three views in one folder, ready to segment
STAGES = ["pretrain", "finetune"] if scans("pretrain") else ["finetune"]
MODEL = "results/models/{stage}/{{view}}/{file}"
MODEL_FILES = ["model.safetensors", "model.json", "history.tsv"]
if not scans("train"):
    raise WorkflowError(f"{SHEET}: no scan has use=train; name scans with labels to train on")
if "pretrain" in STAGES and "pretrain" not in config:
    raise WorkflowError("configuration: 'pretrain' is missing, but the sheet has pretrain scans")


def stacks(*uses):
    return expand("results/slices/{{view}}/{scan}.npy", scan=scans(*uses))


def settings(stage):
    """Training settings of a stage as JSON; as a parameter, so that a change trains again."""
    merged = config["training"] | config[stage] | {"network": config["network"]}
    return json.dumps(merged, sort_keys=True)


def training_threads(wildcards):
    """The three views share the cores; a profile's set-threads goes before."""
    return max(1, (workflow.cores or 1) // len(VIEWS))


rule pretrain:
    input:
        train=stacks("pretrain"),
        val=stacks("val"),
        protocol=PROTOCOL,
    output:
        expand(MODEL, stage="pretrain", file=MODEL_FILES),
    params:
        settings=lambda wc: settings("pretrain"),
        folder=lambda wc: f"results/models/pretrain/{wc.view}",
    threads: training_threads
    log:
        "results/logs/pretrain/{view}.log",
    benchmark:
        "results/benchmarks/pretrain/{view}.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {input.protocol:q} --threads {threads} --output {params.folder:q}"
        " 2>&1 | tee {log:q}"


rule finetune:
    input:
        train=stacks("train"),
        val=stacks("val"),
        protocol=PROTOCOL,
        initial=expand(MODEL, stage=STAGES[:-1], file="model.safetensors"),
    output:
        expand(MODEL, stage="finetune", file=MODEL_FILES),
    params:
        settings=lambda wc: settings("finetune"),
        folder=lambda wc: f"results/models/finetune/{wc.view}",
        initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
    threads: training_threads
    log:
        "results/logs/finetune/{view}.log",
    benchmark:
        "results/benchmarks/finetune/{view}.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {input.protocol:q} --threads {threads} --output {params.folder:q}"
        " {params.initial:q} 2>&1 | tee {log:q}"


rule bundle:
    input:
        models=expand(
            "results/models/finetune/{view}/{file}", view=VIEWS, file=MODEL_FILES
        ),
        protocol=PROTOCOL,
    output:
        weights=expand("results/model/{view}.safetensors", view=VIEWS),
        labels="results/model/labels.tsv",
        card="results/model/README.md",
        bundle="results/model/bundle.json",
    params:
        aggregation=json.dumps(config["aggregation"], sort_keys=True),
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        slice_size=config["slices"]["size"],
    log:
        "results/logs/bundle/model.log",
    benchmark:
        "results/benchmarks/bundle/model.tsv"
    conda:
        "../../envs/torch.yaml"
    shell:
        "quicknat bundle results/models/finetune --protocol {input.protocol:q}"
        " --aggregation {params.aggregation:q} --spacing {params.spacing} --size {params.size}"
        " --slice-size {params.slice_size} --output results/model 2>&1 | tee {log:q}"
