#!/usr/bin/env bash
# Usage: bash run_lt_experiments.sh [GROUP] [--seeds N ...] [--jobs N] [--only N] [--dry_run]
#        bash run_lt_experiments.sh own --csv_train CSV --data_path FOLDER [flags]
#
# Train and test all experiments of a group, and compare those of demo and medmnist. Finished runs are skipped and interrupted runs are resumed.
#
#   GROUP        demo (default; needs no data), eyepacs, endo (the experiments of the paper), eyepacs_recipes, endo_recipes,
#                cifar, medmnist; own: your data, see bash run_lt_experiments.sh own --help
#   --seeds N    random seeds, one or more (default: demo 0, medmnist and own 0 1 2; others one run without a folder for the seed)
#   --jobs N     run N experiments in parallel, spread over the GPUs if there are any (default: 1, demo: 2)
#   --only N     train and test only the N-th experiment of the group
#   --dry_run    print the commands without running them
#   SEEDS, INIT  environment variables: the same as --seeds; file with the initial weights of the fine-tuning in medmnist
#
# Examples:
#
#   bash run_lt_experiments.sh
#   bash run_lt_experiments.sh demo --seeds 0 1 2 --jobs 2
#   bash run_lt_experiments.sh endo --only 15 --dry_run
#   INIT=tf_efficientnet_lite0.pth bash run_lt_experiments.sh medmnist
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh may be another shell, or bash in its POSIX mode
set +o posix
set -euo pipefail
cd "$(dirname "$0")"
. tools/setup_environment.sh
if [ "${1:-}" = own ]; then
    setup_environment requirements.txt
    case $PYTHON in */*) PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/${PYTHON##*/} ;; esac
    root=$PWD
    cd "$called_from"
    PYTHONPATH=$root exec "$PYTHON" -m tools.own_experiments "${@:2}"
fi
group=demo dry= n_jobs= only=
while [ $# -gt 0 ]; do
    case $1 in
        demo|eyepacs|endo|eyepacs_recipes|endo_recipes|cifar|medmnist) group=$1 ;;
        --seeds) SEEDS=; while [[ ${2:-} =~ ^[0-9]+$ ]]; do SEEDS+="${SEEDS:+ }$2"; shift; done
            [ -n "$SEEDS" ] || { echo "error: --seeds takes whole numbers, such as --seeds 0 1 2" >&2; exit 2; } ;;
        --jobs) n_jobs=${2:-}; shift; [[ $n_jobs =~ ^[1-9][0-9]*$ ]] || { echo "error: --jobs takes a number of 1 or more" >&2; exit 2; } ;;
        --only) only=${2:-}; shift; [[ $only =~ ^[1-9][0-9]{0,5}$ ]] || { echo "error: --only takes a number of 1 or more" >&2; exit 2; } ;;
        --dry_run) dry=1 ;;
        -h|--help) show_help run_lt_experiments.sh ;;
        *) echo "error: unknown argument $1 (see bash run_lt_experiments.sh --help)" >&2; exit 2 ;;
    esac
    shift
done
[ $group = medmnist ] || unset INIT
for seed in ${SEEDS:-}; do
    [[ $seed =~ ^[0-9]+$ ]] || { echo "error: SEEDS takes whole numbers, not $seed" >&2; exit 2; }
done
case ${INIT:-/} in /*) ;; *) INIT=$called_from/$INIT ;; esac
[ -z "${INIT:-}" ] || [ -f "$INIT" ] || { echo "error: no such file: INIT=$INIT" >&2; exit 2; }
n_jobs=${n_jobs:-$([ $group = demo ] && echo 2 || echo 1)}
[ -z "$only" ] || n_jobs=1
. tools/experiments.sh
[ -n "$dry" ] && PYTHON=python || setup_environment requirements.txt

demo() {
    local seed common one two tool
    do_ "$PYTHON" -m tools.prepare_demo_data
    for seed in ${SEEDS:-0}; do
        common=(--csv_train data/demo/train_demo.csv --data_path data/demo/images --im_size 64 --model_name regnetx_002 --init none
                --metric bacc --batch_size 32 --optimizer adamw --wd 0.01 --schedule onecycle --ema 0.98 --train_eval off --num_workers 2
                --seed "$seed")
        one=(--n_epochs 5 --lr 0.004)
        two=(--pretrained_weights "experiments/demo/instance/seed$seed")
        run() { local method=$1; shift; experiment "demo/$method/seed$seed" eyepacs --csv_test data/demo/test_demo.csv \
            --data_path data/demo/images --dihedral_tta 0 --num_workers 2 -- "${common[@]}" "$@"; }
        run instance "${one[@]}"
        run mxp_0.2 "${one[@]}" --do_mixup 0.2
        settle
        run BSCE "${one[@]}" --loss_fn BSCE
        run 2stage_BSCE "${two[@]}" --n_epochs 3 --lr 0.002 --loss_fn BSCE
        run 2stage_cRT_BSCE "${two[@]}" --n_epochs 10 --lr 0.01 --loss_fn BSCE --trainable classifier --augment none
    done
    settle
    for tool in compare_experiments report; do do_ "$PYTHON" -m "tools.$tool" results/demo --baseline instance; done
    [ -n "$dry$only" ] || echo "* Images: data/demo/images; runs: experiments/demo; reports and per-image predictions: results/demo"
    what="see one method in detail" next="$(printf %q "$PYTHON") -m tools.report results/demo/2stage_BSCE"
}
demo_cost() {  # see cost in tools/experiments.sh
    case "$*" in
        *prepare_demo_data*) [ -d data/demo ] && echo 2 || echo 25 ;;
        *--trainable*) echo 20 ;;
        *--pretrained_weights*) echo 38 ;;
        *train_lt_mxp.py*) echo 62 ;;
        *) echo 11 ;;
    esac
}
eyepacs() { "${1:-both_stages}" eyepacs mobilenetV2 eyepacs -- --metric kappa; }
eyepacs_recipes() { eyepacs toolbox; }
endo() {
    local fold
    for fold in 1 2 3 4 5; do
        "${1:-both_stages}" "endo/F$fold" mobilenetV2 endo --csv_val "data/val_endo$fold.csv" --data_path data/images -- \
            --csv_train "data/train_endo$fold.csv" --data_path data/images --metric mcc --n_classes 23
    done
}
endo_recipes() { endo toolbox; }
# cifar: CIFAR-10-LT with the network of the BSCE and CDT papers, the setting in which these losses were proposed
cifar() {
    local method flags data=data/cifar10_lt
    [ -d $data ] || do_ "$PYTHON" -m tools.prepare_cifar_lt_data
    while read -r method flags; do
        experiment "cifar/$method/resnet32$suffix" eyepacs --csv_test $data/test_cifar10_lt.csv --data_path $data/images --dihedral_tta 0 -- \
            --csv_train $data/train_cifar10_lt.csv --data_path $data/images --n_classes 10 --im_size 32 --metric bacc --init none \
            --model_name resnet32 --n_epochs 200 --batch_size 128 --lr 0.1 --momentum 0.9 --wd 0.0002 --schedule cosine \
            --train_eval off $flags $seed_flag
    done < <(methods two)
}
# medmnist: RetinaMNIST with the network and the training of the MedMNIST paper, which takes --metric auc to choose the epoch
medmnist() {
    local seed data=data/retinamnist
    local common=(--csv_train $data/train_retinamnist.csv --data_path $data/images --metric auc)
    local paper=(--model_name resnet18_28 --init none --im_size 28 --n_epochs 100 --batch_size 128 --optimizer adam --lr 0.001
                 --schedule step --augment none --train_eval off)
    [ -d $data ] || do_ "$PYTHON" -m tools.prepare_medmnist_data retinamnist
    for seed in ${SEEDS:-0 1 2}; do
        run() { local method=$1; shift; experiment "medmnist/$method/seed$seed" eyepacs --csv_test $data/test_retinamnist.csv \
            --dihedral_tta 0 -- "${common[@]}" --seed "$seed" "$@"; }
        run paper "${paper[@]}"
        run paper_BSCE "${paper[@]}" --loss_fn BSCE
        run finetune --recipe finetune --model_name tf_efficientnet_lite0 --init "${INIT:-imagenet}" --im_size 128
    done
    settle
    do_ "$PYTHON" -m tools.compare_experiments results/medmnist --baseline paper
    if [ -z "$dry$only" ]; then
        echo "* Published for 'paper': ACC 52.4, AUC 71.7 (Yang et al., Scientific Data 2023)"
        echo "* Published for ResNet-18 with another training, 3 seeds: ACC 52.3 ± 2.4, AUC 70.4 (Doerrich et al., Scientific Reports 2025)"
    fi
    what="write a report of these runs" next="$(printf %q "$PYTHON") -m tools.report results/medmnist --baseline paper"
}
medmnist_cost() {
    case "$*" in
        *"--recipe finetune"*) echo 20 ;;
        *train_lt_mxp.py*) echo 100 ;;
        *) echo 1 ;;
    esac
}
what="compare the methods" next="$(printf %q "$PYTHON") -m tools.compare_experiments results/${group%%_*}"
# all_seeds: run the group once, or for each of SEEDS with a folder for the seed
all_seeds() {
    local seed suffix= seed_flag=
    if [[ $group = demo || $group = medmnist || -z ${SEEDS:-} ]]; then "$group"; return; fi
    for seed in $SEEDS; do
        suffix=/seed$seed seed_flag="--seed $seed"
        "$group"
    done
}
[ -n "$dry" ] || plan all_seeds
all_seeds
settle
[ "${only:-0}" -le "$n_experiments" ] || { echo "error: --only $only: $group has only $n_experiments experiments" >&2; exit 2; }
variables=
[ -z "${SEEDS:-}" ] || variables="SEEDS=$(printf %q "$SEEDS") "
[ -z "${INIT:-}" ] || variables+="INIT=$(printf %q "$INIT") "
[ -z "$dry" ] || what="run these commands" next="${variables}bash run_lt_experiments.sh $group ${only:+--only }${only:---jobs $n_jobs}"
say_next "$what" "$next" >&2
