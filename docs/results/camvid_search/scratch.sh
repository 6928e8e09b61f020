#!/usr/bin/env bash
# Trains networks by the recipe of camvid_compare.toml from random weights: scratch.sh NAS_SEGMENT CAMVID OUT MODEL.toml...
# MODEL.toml holds [model]: a file of `nas-segment sample`, or the train.toml or NAME_found.toml of a search.
set -euo pipefail
cd "$(dirname "$0")/../../.."
program=$1 data=$2 out=$3
shift 3
mkdir -p "$out"
for model in "$@"; do
    name=$(basename "$model" .toml)
    {
        printf 'kind = "train"\nseed = 0\n\n'
        sed -n '/^\[model\]/,$p' "$model" | sed '/^\[train\]/,$d'
        echo
        sed -n '/^\[train\]/,$p' configs/segment/camvid_compare.toml
    } > "$out/$name.toml"
    "$program" train --config "$out/$name.toml" --set data.root="$data" --out "$out/$name" --threads 1 --device cpu --resume
done
