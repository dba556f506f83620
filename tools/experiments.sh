# Functions for run_lt_experiments.sh, which sets dry (print only), only (number of the experiment to run), n_jobs (parallel experiments),
# suffix and seed_flag (/seed1 and --seed 1, or empty) and PYTHON. They also run on macOS, which has bash 3.2 without `wait -n`, no `flock` and no `nproc`.
n_gpus=$(nvidia-smi -L 2>/dev/null | wc -l) slots=$(mktemp -d) pids=()  # pids: process of each slot
trap 'rm -rf "$slots"' EXIT
trap 'wait; echo "interrupted: run the same command again to resume" >&2; exit 130' INT

# quoted WORD...: print the words on one line, quoted for a shell
quoted() {
    local text
    printf -v text ' %q' "$@"
    echo "${text# }"
}
do_() {
    [ -z "${only:-}" ] || [ -n "${chosen:-}" ] || return 0  # --only skips all other commands
    if [ -n "$dry" ]; then quoted "$@"; return; fi
    local start=$SECONDS expected
    expected=$(cost "$@")
    announce "$@"
    echo "\$ $(quoted "$@")" >&2
    "$@" </dev/null || return
    echo "$expected $((SECONDS - start))" >>"$slots/finished"
}
# cost COMMAND: print its duration relative to other commands. GROUP_cost gives seconds on two idle cores; in groups without that
# function, a training run counts as 100.
cost() {
    if declare -F "${group:-}_cost" >/dev/null; then "${group}_cost" "$@"; return; fi
    case "$*" in *train_lt_mxp.py*) echo 100 ;; *) echo 3 ;; esac
}
# plan GROUP: count the remaining commands and their total cost
plan() {
    local line
    n_steps=0 total_cost=0
    while read -r line; do
        n_steps=$((n_steps + 1)) total_cost=$((total_cost + $(cost $line)))
    done < <(dry=1; "$1")
    : >"$slots/started"
    : >"$slots/finished"
}
# announce COMMAND: print a line such as [2/14, about 3 min left] train demo/mxp_0.2/seed0
announce() {
    local what step expected seconds done_cost=0 done_seconds=0 left
    [ -n "${n_steps:-}" ] || return 0
    case $2 in
        -m) what=${3#tools.} ;;
        train_lt_mxp.py) what="train $4" ;;
        *) what="test ${4#experiments/}" ;;
    esac
    echo "$what" >>"$slots/started"
    step=$(grep -nxF "$what" "$slots/started" | cut -d: -f1)
    while read -r expected seconds; do
        done_cost=$((done_cost + expected)) done_seconds=$((done_seconds + seconds))
    done <"$slots/finished"
    left=$((total_cost - done_cost))
    if declare -F "${group}_cost" >/dev/null; then  # weight of the expected speed, which the first steps only correct
        done_cost=$((done_cost + 20)) done_seconds=$((done_seconds + 20))
    fi
    if [ "$done_cost" -gt 0 ]; then
        left=", about $(duration $((left * done_seconds / done_cost / n_jobs))) left"
    else
        left=
    fi
    echo "[$step/$n_steps$left] $what" >&2
}
# duration SECONDS: print 50 -> 50 s, 200 -> 3.3 min, 9000 -> 2.5 h
duration() {
    if [ "$1" -lt 90 ]; then echo "$1 s"
    elif [ "$1" -lt 5400 ]; then echo "$(($1 / 60)).$(($1 % 60 / 6)) min"
    else echo "$(($1 / 3600)).$(($1 % 3600 / 360)) h"
    fi
}
# experiment NAME TESTER TEST_FLAGS -- TRAIN_FLAGS: train experiments/NAME and test its best epoch. With --jobs, experiments run in
# parallel, and each line of the output begins with NAME.
experiment() {
    local chosen=
    n_experiments=$((${n_experiments:-0} + 1))
    if [ -n "${only:-}" ]; then
        [ "$n_experiments" -eq "$only" ] || return 0
        chosen=1
    fi
    [ "$n_jobs" -gt 1 ] && [ -z "$dry" ] || { train_and_test "$@"; return; }
    local slot=0
    while running "${pids[slot]:-}"; do
        slot=$(((slot + 1) % n_jobs))
        [ "$slot" -gt 0 ] || sleep 0.5
    done
    (
        trap '[ $? = 0 ] || touch "$slots/failed"' EXIT
        if [ "$n_gpus" -gt 0 ]; then
            export CUDA_VISIBLE_DEVICES=$((slot % n_gpus))
        else
            export OMP_NUM_THREADS=$((($(getconf _NPROCESSORS_ONLN) + n_jobs - 1) / n_jobs))
        fi
        train_and_test "$@" | { trap '' INT TERM; while IFS= read -r line; do printf '%s: %s\n' "$1" "$line"; done; }
    ) &
    pids[slot]=$!
}
running() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
# settle: wait for all experiments started so far, because the next ones use their checkpoints or results
settle() {
    wait
    [ ! -e "$slots/failed" ] || { echo "error: an experiment failed (see above); run the same command again to resume" >&2; exit 1; }
}
train_and_test() {
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
# methods one|two: print the name and flags of each method of that stage, for the methods of the paper and its extension
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
        experiment "$prefix/$method/$network$suffix" "$@" --model_name "$network" --n_epochs 30 $flags $seed_flag
    done < <(methods one)
    settle
    while read -r method flags; do
        experiment "$prefix/2stage/$method/$network$suffix" "$@" --model_name "$network" --n_epochs 60 --lr 0.003 $flags $seed_flag \
            --pretrained_weights "experiments/$prefix/instance/$network$suffix"
    done < <(methods two)
}
# toolbox PREFIX NETWORK TESTER TEST_FLAGS -- TRAIN_FLAGS: recipes for pretrained networks; stage two starts from plain fine-tuning
toolbox() {
    local prefix=$1 network=$2 recipe
    shift 2
    run_recipe() { local name=$1 recipe=$2; shift 2; experiment "$prefix/$name/$network$suffix" "$@" --recipe "$recipe" --model_name "$network" $seed_flag; }
    for recipe in finetune finetune_fast; do run_recipe $recipe $recipe "$@"; done
    run_recipe finetune_plain finetune "$@" --loss_fn CE --n_epochs 8
    settle
    for recipe in finetune_two_stage stage_two_crt stage_two_lws; do
        run_recipe $recipe $recipe "$@" --pretrained_weights "experiments/$prefix/finetune_plain/$network$suffix"
    done
}
