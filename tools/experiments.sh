# Functions of run_lt_experiments.sh, which sets dry (print only), n_jobs (experiments side by side) and PYTHON.
n_gpus=$(nvidia-smi -L 2>/dev/null | wc -l) slots=$(mktemp -d)
trap 'rm -rf "$slots"' EXIT
trap 'wait; echo "interrupted: the same command goes on where it stopped" >&2; exit 130' INT

do_() {
    if [ -n "$dry" ]; then echo "$@"; else echo "\$ $*" >&2; "$@" </dev/null; fi
}
# experiment NAME TESTER TEST_FLAGS -- TRAIN_FLAGS: train experiments/NAME and test its best epoch, beside others with --jobs
experiment() {
    [ "$n_jobs" -gt 1 ] && [ -z "$dry" ] || { train_and_test "$@"; return; }
    while [ "$(jobs -rp | wc -l)" -ge "$n_jobs" ]; do wait -n || true; done
    (
        trap '[ $? = 0 ] || touch "$slots/failed"' EXIT
        for ((slot = 0; slot < n_jobs; slot++)); do exec 9>"$slots/$slot"; flock -n 9 && break; done
        [ "$n_gpus" -gt 0 ] && export CUDA_VISIBLE_DEVICES=$((slot % n_gpus)) || export OMP_NUM_THREADS=$((($(nproc) + n_jobs - 1) / n_jobs))
        train_and_test "$@"
    ) &
}
# settle: wait for the experiments so far, on which the next ones are built
settle() {
    wait
    [ ! -e "$slots/failed" ] || { echo "error: an experiment failed, see above; the same command goes on" >&2; exit 1; }
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
