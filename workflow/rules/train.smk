# Train the three views independently: pre-training (if there are scans for it) on automatic labels or
# synthetic images, then fine-tuning on the given labels.
# Requires: the stacks of the pretrain, train and val scans; tissue stacks, to synthesize images.
# Makes:    results/models/{stage}/{view}/   model.safetensors, model.json, history.tsv
#           results/model/                   the three views in one folder, ready to segment;
#                                            with the setting `model`, a copy of that folder
#
# Schedulers send stop signals to all processes of a job. The training saves its state before it stops;
# the shell and `tee` ignore the signal, or Snakemake would consider the job finished too early.
import json

# the views share the cores, unless set by a profile
TRAINING_THREADS = lambda wildcards: max(1, (workflow.cores or 1) // len(VIEWS))
INITIAL = [f"{RUN.initial}/{{view}}.safetensors"] if RUN.initial else []  # of the first stage

if RUN.model:

    rule copy_model:
        output:
            BUNDLED,
        log:
            "<results>/logs/copy_model/model.log",
        benchmark:
            "<results>/benchmarks/copy_model/model.tsv"
        localrule: STORAGE
        conda:
            "../../envs/torch.yaml"
        params:
            # the model's content, not its path; bundle.json has checksums of the other files
            contents=file_digest(f"{RUN.model}/bundle.json"),
            files=untracked([f"{RUN.model}/{name}" for name in BUNDLE_FILES]),
            folder=subpath(output[0], parent=True),
        shell:
            "cp -v -- {params.files:q} {params.folder:q} &> {log:q}"

else:

    rule pretrain:
        input:
            train=stacks(PLAN.pretrain),
            tissues=stacks(PLAN.synthesize, "_tissues"),
            val=stacks(PLAN.val),
            initial=INITIAL,
        output:
            expand("<results>/models/pretrain/{{view}}/{file}", file=MODEL_FILES),
        log:
            "<results>/logs/pretrain/{view}.log",
        benchmark:
            "<results>/benchmarks/pretrain/{view}.tsv"
        # pre-train all views first, or one view's two stages would run last and alone
        priority: 10
        conda:
            "../../envs/torch.yaml"
        threads: TRAINING_THREADS
        params:
            **LABEL_TABLE,
            settings=untracked(PLAN.settings.get("pretrain")),
            weight_determining=PLAN.weight_determining.get("pretrain"),
            initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
            folder=subpath(output[0], parent=True),
        shell:
            "trap '' TERM USR1; "
            "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
            " --tissues <(printf '%s\\n' {input.tissues:q})"
            " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
            " --protocol {params.protocol:q} --threads {threads} --output {params.folder:q}"
            " {params.initial:q} 2>&1 | tee {log:q}"

    rule finetune:
        input:
            train=stacks(PLAN.train),
            val=stacks(PLAN.val),
            initial=(
                ["<results>/models/pretrain/{view}/model.safetensors"]
                if "pretrain" in PLAN.stages
                else INITIAL
            ),
        output:
            expand("<results>/models/finetune/{{view}}/{file}", file=MODEL_FILES),
        log:
            "<results>/logs/finetune/{view}.log",
        benchmark:
            "<results>/benchmarks/finetune/{view}.tsv"
        conda:
            "../../envs/torch.yaml"
        threads: TRAINING_THREADS
        params:
            **LABEL_TABLE,
            settings=untracked(PLAN.settings["finetune"]),
            weight_determining=PLAN.weight_determining["finetune"],
            initial=lambda wc, input: ["--initial", *input.initial] if input.initial else [],
            folder=subpath(output[0], parent=True),
            # the existing model, and whether to start from it, must not trigger training
            present=lambda wc, output: f"{RESULTS}/model/{wc.view}.safetensors",
            epochs=untracked(PLAN.warm_start_epochs),
        shell:
            "trap '' TERM USR1; "
            "quicknat train {wildcards.view:q} --stacks <(printf '%s\\n' {input.train:q})"
            " --validation <(printf '%s\\n' {input.val:q}) --settings {params.settings:q}"
            " --protocol {params.protocol:q} --threads {threads} --output {params.folder:q}"
            " {params.initial:q} --warm-start {params.present:q}"
            " --warm-start-epochs {params.epochs} 2>&1 | tee {log:q}"

    rule bundle:
        input:
            models=expand("<results>/models/finetune/{view}/{file}", view=VIEWS, file=MODEL_FILES),
        output:
            BUNDLED,
        log:
            "<results>/logs/bundle/model.log",
        benchmark:
            "<results>/benchmarks/bundle/model.tsv"
        conda:
            "../../envs/torch.yaml"
        params:
            aggregation=untracked(json.dumps(config["aggregation"])),
            compared=json.dumps(compared_settings(config["aggregation"])),
            spacing=config["conform"]["spacing_mm"],
            size=config["conform"]["size"],
            slice_size=config["slices"]["size"],
            protocol=untracked(config["protocol"]),
            table=RUN.label_table_digest,
            models=subpath(input[0], ancestor=2),
            folder=subpath(output[0], parent=True),
        shell:
            "quicknat bundle {params.models:q} --protocol {params.protocol:q}"
            " --aggregation {params.aggregation:q} --spacing {params.spacing} --size {params.size}"
            " --slice-size {params.slice_size} --output {params.folder:q} &> {log:q}"
