#!/usr/bin/env bash
# Train the intracranial model: prepare.py, `quicknat train` for each view, `quicknat bundle`.
#   bash benchmarks/intracranial/train.sh MAPS FOLDER
# MAPS holds the 20 maps training_seg_NN.nii.gz of SynthSeg's repository (data/training_label_maps).
# The model is FOLDER/model. Four maps (03, 09, 14, 18) are validated on, which choose the epoch.
set -euo pipefail
maps=$1 folder=$2 here=$(dirname "$0")
held_out='_(03|09|14|18)\.nii'
settings='{"network": {"filters": 8, "dropout": 0.0}, "epochs": 4, "max_minutes": 27, "batch_size": 4,
           "optimizer": "adamw", "learning_rate": 0.004, "warmup": 0.05, "class_weight_power": 0.0,
           "flip": true, "precision": "32-true", "compile": false}'

list() { find "$folder/slices/$1" -name '*.npy' -path "*/$2/*" | sort; }

for split in train val; do
    [[ $split == val ]] && keep=(-E) || keep=(-vE)
    mapfile -t files < <(find "$maps" -name 'training_seg_*.nii.gz' | sort | grep "${keep[@]}" "$held_out")
    python "$here/prepare.py" "${files[@]}" --heads 2 --output "$folder/slices/$split"
done
for view in coronal axial sagittal; do
    quicknat train "$view" --protocol "$here/intracranial.tsv" --settings "$settings" \
        --stacks <(list train/heads "$view") --tissues <(list train/tissues "$view") \
        --validation <(list val/heads "$view") --output "$folder/models/$view"
done
quicknat bundle "$folder/models" --protocol "$here/intracranial.tsv" --spacing 3 --size 96 \
    --slice-size 80 --aggregation '{"coronal": 0.34, "axial": 0.33, "sagittal": 0.33}' \
    --output "$folder/model"
