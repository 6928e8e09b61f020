#!/bin/bash
# run.sh FOLDER SEED METHOD...: one-shot searches on NAS-Bench-201, one after another on one core; those that have ended are left
# alone, one that was killed goes on. FOLDER/cpu.log gets the CPU seconds of each. From the repository's root, ../shared beside it.
set -euo pipefail
folder=$1 seed=$2
shift 2
config=configs/classify/nasbench201_one_shot.toml
# A tenth of the published steps: ten times the published rate.
arch='arch={kind="adam",lr=3e-3,beta1=0.5,weight_decay=1e-3}'
genetic='num_trials=200,recalibration_batches=20,strategy={kind="genetic",population_size=50,parents=10,mutations=25,crossovers=25}'
mkdir -p "$folder"
for name in "$@"; do
    # What fits into about six minutes of a quiet core.
    case $name in
        darts) epochs=45 method="kind=\"darts\",$arch" ;;
        darts2) epochs=25 method="kind=\"darts\",order=\"second\",$arch" ;;
        snas) epochs=80 method="kind=\"snas\",$arch" ;;
        gdas) epochs=140 method="kind=\"gdas\",$arch" ;;
        gdas_undrawn) epochs=90 method="kind=\"gdas\",undrawn=true,$arch" ;;
        drnas) epochs=60 method='kind="drnas",arch={kind="adam",lr=3e-3,beta1=0.5}' ;;
        fbnet) epochs=60 method='kind="fbnet",cost={kind="none"}' ;;
        proxyless_nas) epochs=220 method='kind="proxyless_nas"' ;;
        enas | mdenas) epochs=200 method="kind=\"$name\",arch_start_epoch=50" ;;
        ddpnas | asng) epochs=160 method="kind=\"$name\",arch_start_epoch=40" ;;
        spos) epochs=200 method="kind=\"spos\",$genetic" ;;
        fair) epochs=40 method="kind=\"spos\",fair=true,$genetic" ;;
        bignas) epochs=40 method='kind="bignas",num_trials=200' ;;
        random_nas_ws) epochs=200 method='kind="random_nas_ws"' ;;
        *) echo "$name: no such method" >&2 && exit 1 ;;
    esac
    out=$folder/$name-s$seed
    [ -f "$out/result.json" ] && continue
    /usr/bin/time -a -o "$folder/cpu.log" -f "$name-s$seed %U %S" nas-classify search --config "$config" --set "seed=$seed" \
        --set "one_shot.epochs=$epochs" --set "one_shot.method={$method}" --out "$out" --threads 1 --resume
done
