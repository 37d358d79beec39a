# Train the three views, independently: pre-training where there is something for it, fine-tuning.
# The first is on automatic labels or synthetic images, the second on the given labels.
# Requires: the stacks of the pretrain, train and val scans; those of tissues, to synthesize images from.
# Makes:    results/models/{stage}/{view}/   model.safetensors, model.json, history.tsv
#           results/model/                   the three views in one folder, ready to segment;
#                                            with the setting `model`, a copy of that folder
#
# A signal that is to end a training goes to all processes of its job. The training obeys it, once its
# state is saved; the shell and `tee` must outlive that, or Snakemake would count the job as over.


rule pretrain:
    input:
        train=stacks(PRETRAIN_IMAGES),
        tissues=stacks(PRETRAIN_MAPS, "_tissues"),
        val=stacks(scans("val")),
        initial=INITIAL,
    output:
        expand("results/models/pretrain/{{view}}/{file}", file=MODEL_FILES),
    log:
        "results/logs/pretrain/{view}.log",
    benchmark:
        "results/benchmarks/pretrain/{view}.tsv"
    wildcard_constraints:
        view=NOTHING if MODEL else "|".join(VIEWS),
    # all views before any fine-tuning, or one view's two stages come last and alone
    priority: 10
    conda:
        "../../envs/torch.yaml"
    threads: training_threads
    params:
        settings=untracked(json.dumps(SETTINGS.get("pretrain"))),
        determining=lambda wc: weight_determining(SETTINGS["pretrain"]),
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        folder=lambda wc: f"results/models/pretrain/{wc.view}",
        initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
    shell:
        "trap '' TERM USR1; "
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --tissues <(printf '%s\\n' {input.tissues:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {params.protocol:q} --threads {threads} --output {params.folder:q}"
        " {params.initial:q} 2>&1 | tee {log:q}"


rule finetune:
    input:
        train=stacks(scans("train")),
        val=stacks(scans("val")),
        initial=expand("results/models/{stage}/{{view}}/model.safetensors", stage=STAGES[:-1])
        or INITIAL,
    output:
        expand("results/models/finetune/{{view}}/{file}", file=MODEL_FILES),
    log:
        "results/logs/finetune/{view}.log",
    benchmark:
        "results/benchmarks/finetune/{view}.tsv"
    wildcard_constraints:
        view=NOTHING if MODEL else "|".join(VIEWS),
    conda:
        "../../envs/torch.yaml"
    threads: training_threads
    params:
        settings=untracked(json.dumps(SETTINGS.get("finetune"))),
        determining=lambda wc: weight_determining(SETTINGS["finetune"]),
        protocol=untracked(PROTOCOL),
        classes=CLASSES,
        folder=lambda wc: f"results/models/finetune/{wc.view}",
        initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
        # what becomes of finished models is no reason to train
        epochs=untracked(WARM_START_EPOCHS),
    shell:
        "trap '' TERM USR1; "
        "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
        " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
        " --protocol {params.protocol:q} --threads {threads} --output {params.folder:q}"
        " {params.initial:q} --warm-start results/model/{wildcards.view:q}.safetensors"
        " --warm-start-epochs {params.epochs} 2>&1 | tee {log:q}"


rule bundle:
    input:
        models=expand("results/models/finetune/{view}/{file}", view=VIEWS, file=MODEL_FILES),
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
        aggregation=json.dumps({view: config["aggregation"][view] for view in VIEWS}),
        passes=[f"--{key}" for key in ("flip", "shift") if config["aggregation"][key]],
        prior=config["aggregation"]["prior_correction"],
        spacing=config["conform"]["spacing_mm"],
        size=config["conform"]["size"],
        slice_size=config["slices"]["size"],
        protocol=untracked(PROTOCOL),
        table=PROTOCOL_DIGEST,
    shell:
        "quicknat bundle results/models/finetune --protocol {params.protocol:q}"
        " --aggregation {params.aggregation:q} {params.passes:q} --prior-correction {params.prior:q}"
        " --spacing {params.spacing} --size {params.size}"
        " --slice-size {params.slice_size} --output results/model 2>&1 | tee {log:q}"


# instead, with a finished model
rule copy_model:
    output:
        BUNDLED if MODEL else [],
    log:
        "results/logs/copy_model/model.log",
    benchmark:
        "results/benchmarks/copy_model/model.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        # what the model is decides, not where it lies: its bundle.json has checksums of the rest
        contents=file_digest(f"{MODEL}/bundle.json"),
        files=untracked([f"{MODEL}/{name}" for name in BUNDLE_FILES]),
    shell:
        "cp -v -- {params.files:q} results/model 2>&1 | tee {log:q}"


ruleorder: copy_model > bundle
