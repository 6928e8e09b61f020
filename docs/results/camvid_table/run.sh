#!/usr/bin/env bash
# Trains the networks of the table by recipe.toml, one after the other, on one thread; what has ended is not done again.
#   run.sh NAS_SEGMENT RUNS HOLDOUT_DATA CAMVID NAME...
# RUNS/models/NAME.toml holds the section [model] (from `nas-segment sample`, or `preset = "NAME"`).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
bin=$1 runs=$2 holdout=$3 camvid=$4
shift 4
for name in "$@"; do
    [ -e "$runs/STOP" ] && break
    out=$runs/short/$name
    mkdir -p "$runs/short" "$runs/configs"
    config=$runs/configs/$name.toml
    { echo 'kind = "train"'; echo "seed = 0"; cat "$here/recipe.toml"; echo; echo "[data]"; echo 'kind = "camvid"'; echo "root = \"$holdout\""; echo
      cat "$runs/models/$name.toml"; } >"$config"
    if [ ! -e "$out/result.json" ]; then
        nice -n 5 "$bin" train --config "$config" --out "$out" --resume --threads 1 || continue
    fi
    if [ ! -e "$out/val.json" ]; then
        nice -n 5 "$bin" eval --run "$out" --set "data.root=\"$camvid\"" --split val --threads 1 --format json >"$out/val.json.tmp"
        mv "$out/val.json.tmp" "$out/val.json"
    fi
done
