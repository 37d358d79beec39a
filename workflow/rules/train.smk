# Train the three views, independently: on automatic labels first, then on the given ones.
# Requires: the stacks of the pretrain, train and val scans.
# Makes:    results/models/{stage}/{view}/   model.safetensors, model.json, history.tsv
#           results/model/                   the three views in one folder, ready to segment
#
# A signal that is to end a training goes to all processes of its job. The training obeys it, once its
# state is saved; the shell and `tee` must outlive that, or Snakemake would count the job as over.


rule pretrain:
    input:
        train=stacks("pretrain"),
        val=stacks("val"),
        protocol=PROTOCOL,
    output:
        expand("results/models/pretrain/{{view}}/{file}", file=MODEL_FILES),
    log:
        "results/logs/pretrain/{view}.log",
    benchmark:
        "results/benchmarks/pretrain/{view}.tsv"
    # all views before any fine-tuning, or one view's two stages come last and alone
    priority: 10
    conda:
        "../../envs/torch.yaml"
    threads: training_threads
    params:
        settings=lambda wc: settings("pretrain"),
        folder=lambda wc: f"results/models/pretrain/{wc.view}",
    shell:
        "trap '' TERM USR1; "
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {input.protocol:q} --threads {threads} --output {params.folder:q}"
        " 2>&1 | tee {log:q}"


rule finetune:
    input:
        train=stacks("train"),
        val=stacks("val"),
        protocol=PROTOCOL,
        initial=expand("results/models/{stage}/{{view}}/model.safetensors", stage=STAGES[:-1]),
    output:
        expand("results/models/finetune/{{view}}/{file}", file=MODEL_FILES),
    log:
        "results/logs/finetune/{view}.log",
    benchmark:
        "results/benchmarks/finetune/{view}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: training_threads
    params:
        settings=lambda wc: settings("finetune"),
        folder=lambda wc: f"results/models/finetune/{wc.view}",
        initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
    shell:
        "trap '' TERM USR1; "
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {input.protocol:q} --threads {threads} --output {params.folder:q}"
        " {params.initial:q} 2>&1 | tee {log:q}"


rule bundle:
    input:
        models=expand("results/models/finetune/{view}/{file}", view=VIEWS, file=MODEL_FILES),
        protocol=PROTOCOL,
    output:
        weights=expand("results/model/{view}.safetensors", view=VIEWS),
        labels="results/model/labels.tsv",
        card="results/model/README.md",
        bundle="results/model/bundle.json",
    log:
        "results/logs/bundle/model.log",
    benchmark:
        "results/benchmarks/bundle/model.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        aggregation=json.dumps(config["aggregation"], sort_keys=True),
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        slice_size=config["slices"]["size"],
    shell:
        "quicknat bundle results/models/finetune --protocol {input.protocol:q}"
        " --aggregation {params.aggregation:q} --spacing {params.spacing} --size {params.size}"
        " --slice-size {params.slice_size} --output results/model 2>&1 | tee {log:q}"
