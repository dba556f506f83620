#!/usr/bin/env bash
# Every experiment, as loops: bash run_lt_experiments.sh [demo|eyepacs|endo] [--dry_run]
# A finished run is skipped, an interrupted one goes on; --dry_run prints the commands. SEEDS="0 1 2" repeats the demo.
set -euo pipefail
cd "$(dirname "$0")"
group=demo dry=
for argument in "$@"; do
    case $argument in
        demo|eyepacs|endo) group=$argument ;;
        --dry_run) dry=1 ;;
        *) echo "error: unknown argument $argument (bash run_lt_experiments.sh [demo|eyepacs|endo] [--dry_run])" >&2; exit 2 ;;
    esac
done
. tools/setup_environment.sh
[ -n "$dry" ] && PYTHON=python || setup_environment requirements.txt

do_() {
    if [ -n "$dry" ]; then echo "$@"; else echo "\$ $*" >&2; "$@" </dev/null; fi
}
# experiment NAME TESTER TEST_FLAGS -- TRAIN_FLAGS: train experiments/NAME and test its best epoch
experiment() {
    local name=$1 tester=$2 test_flags=() resume=()
    shift 2
    while [ "$1" != -- ]; do test_flags+=("$1"); shift; done; shift
    if [ ! -f "experiments/$name/val_metrics.txt" ]; then
        [ ! -f "experiments/$name/config.cfg" ] || resume=(--resume)
        do_ "$PYTHON" train_lt_mxp.py --save_path "$name" "$@" ${resume[@]+"${resume[@]}"}
    fi
    compgen -G "results/$name/performance_*.txt" >/dev/null ||
        do_ "$PYTHON" "test_with_labels_$tester.py" --load_path "experiments/$name" ${test_flags[@]+"${test_flags[@]}"}
}
# methods one|two: name and flags of each method of the paper and its extension, in that stage
methods() {
    local alpha sampling loss
    for sampling in instance sqrt class; do echo "$sampling --sampling $sampling"; done
    for loss in BSCE CDT; do echo "$loss --loss_fn $loss"; done
    for alpha in $([ "$1" = one ] && echo 0.1 0.2 0.3 || echo 0.3); do echo "mxp_$alpha --do_mixup $alpha"; done
}
# both_stages PREFIX NETWORK TESTER TEST_FLAGS -- TRAIN_FLAGS: stage two starts from the instance-sampled run
both_stages() {
    local prefix=$1 network=$2 method flags
    shift 2
    while read -r method flags; do
        experiment "$prefix/$method/$network" "$@" --model_name "$network" --n_epochs 30 $flags
    done < <(methods one)
    while read -r method flags; do
        experiment "$prefix/2stage/$method/$network" "$@" --model_name "$network" --n_epochs 60 --lr 0.003 $flags \
            --pretrained_weights "experiments/$prefix/instance/$network"
    done < <(methods two)
}
demo() {
    local seed common one two tool
    do_ "$PYTHON" -m tools.prepare_demo_data
    for seed in ${SEEDS:-0}; do
        common=(--csv_train data/demo/train_demo.csv --data_path data/demo/images --im_size 96 --model_name mobilenetV2 --init none
                --metric bacc --batch_size 16 --optimizer adam --num_workers 2 --seed "$seed")
        one=(--n_epochs 7 --lr 0.002)
        two=(--n_epochs 3 --loss_fn BSCE --pretrained_weights "experiments/demo/instance/seed$seed")
        run() { local method=$1; shift; experiment "demo/$method/seed$seed" eyepacs --csv_test data/demo/test_demo.csv \
            --data_path data/demo/images --dihedral_tta 0 --num_workers 2 -- "${common[@]}" "$@"; }
        run instance "${one[@]}"
        run mxp_0.2 "${one[@]}" --do_mixup 0.2
        run BSCE "${one[@]}" --loss_fn BSCE
        run 2stage_BSCE "${two[@]}" --lr 0.0003
        run 2stage_cRT_BSCE "${two[@]}" --lr 0.002 --trainable classifier
    done
    for tool in compare_experiments report; do do_ "$PYTHON" -m "tools.$tool" results/demo; done
    [ -n "$dry" ] || echo "* Images: data/demo/images; runs: experiments/demo; reports and per-image predictions: results/demo"
}
eyepacs() {
    both_stages eyepacs mobilenetV2 eyepacs -- --metric kappa
}
endo() {
    local fold
    for fold in 1 2 3 4 5; do
        both_stages "endo/F$fold" mobilenetV2 endo --csv_val "data/val_endo$fold.csv" --data_path data/images -- \
            --csv_train "data/train_endo$fold.csv" --data_path data/images --metric mcc --n_classes 23
    done
}
"$group"
