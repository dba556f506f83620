#!/usr/bin/env bash
# Usage: bash benchmarks/gpu_check.sh [--out FOLDER] [--data FOLDER] [--cpu] [--study]
#
# Tests the program on a CUDA GPU and measures its speed, in at most 8 minutes. It needs no network and installs nothing.
# Each check prints a PASS, FAIL or SKIP line as soon as it finishes. The exit status is 0 if no check failed.
#
#   --out FOLDER    output folder: a table, one JSON file with all results, and a JSON file and a log for each stage
#                   (default: results/gpu_check)
#   --data FOLDER   folder for 35 GB of synthetic images, which are deleted at the end
#                   (default: /dev/shm, which is in memory, if it has 48 GB free, else the temporary folder)
#   --cpu           run the checks at small sizes on the CPU, in about 2 minutes; the measured speeds mean nothing
#   --study         compare methods with a pretrained network on the images in LT_REAL_DATA instead;
#                   run the same command again to resume an interrupted study
#
# Examples:
#
#   bash benchmarks/gpu_check.sh
#   bash benchmarks/gpu_check.sh --cpu --out /tmp/gpu_check
#   bash benchmarks/gpu_check.sh --study
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh may be another shell, or bash in its POSIX mode
set +o posix
set -euo pipefail
cd "$(dirname "$0")/.." && . tools/setup_environment.sh
out=results/gpu_check data= cpu=() study= in_memory_kb=48000000 unit=1
while [ $# -gt 0 ]; do
    case $1 in
        -h|--help) show_help benchmarks/gpu_check.sh ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        --data) data=${2:?--data needs a folder}; shift 2 ;;
        --cpu) cpu=(--cpu) unit=10; export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1; shift ;;  # more threads slow down tiny tensors
        --study) study=1; shift ;;
        *) echo "error: unknown flag $1 (bash benchmarks/gpu_check.sh --help)" >&2; exit 2 ;;
    esac
done
limit=$((465 * unit))  # 15 s of 8 minutes for cleaning up; on a CPU, a busy machine must not break a limit
case $out in /*) ;; *) out=$called_from/$out ;; esac
case $data in /*|'') ;; *) data=$called_from/$data ;; esac

# Find an interpreter that has PyTorch, in any version. Nothing is installed.
PYTHON=
for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" .venv/bin/python python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2>/dev/null; then
        PYTHON=$candidate
        break
    fi
done
[ -n "$PYTHON" ] || { echo "error: no Python with PyTorch found: activate an environment that has it" >&2; exit 1; }
export PYTHONUNBUFFERED=1
"$PYTHON" -m benchmarks.gpu.run device --out "$out" ${cpu[@]+"${cpu[@]}"}

failed=0 jobs=()
stop() {
    trap '' INT TERM  # so that a second Ctrl-C does not leave 35 GB behind
    [ ${#jobs[@]} = 0 ] || kill "${jobs[@]}" 2>/dev/null || true
    wait  # the study saves its state
    [ -z "${made:-}" ] || rm -rf "$made"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME SECONDS: run a stage in the background with this time limit, which includes up to 15 s to import PyTorch
start() {
    timeout -k 5 "$2" "$PYTHON" -m benchmarks.gpu.run "$1" --out "$out" --data "$made" --seconds $(($2 - 15)) ${cpu[@]+"${cpu[@]}"} &
    jobs+=($!)
}

# finish NAME SECONDS: wait for the most recently started stage
finish() {
    local code=0
    wait "${jobs[-1]}" || code=$?
    unset 'jobs[-1]'
    case $code in
        0) ;;
        3) failed=1 ;;  # each failed check has printed its line
        124|137) failed=1; echo "FAIL $1: timed out after $2 s (its last check may have no line), see $out/$1.log" ;;
        *) failed=1; echo "FAIL $1: exited with status $code, see $out/$1.log" ;;
    esac
}

# stage NAME SECONDS: run a stage to its end, within this limit and the total limit
stage() {
    local seconds=$((limit - SECONDS < $2 ? limit - SECONDS : $2))
    [ "$seconds" -gt 20 ] || { echo "SKIP $1: no time left"; return; }
    start "$1" "$seconds"
    finish "$1" "$seconds"
}

made=
if [ -n "$study" ]; then
    start study 86400
    finish study 86400
    exit "$failed"
fi
shm_kb=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
if [ -z "$data" ] && [ ${#cpu[@]} = 0 ] && [ "${shm_kb:-0}" -gt "$in_memory_kb" ]; then
    data=/dev/shm
fi
mkdir -p "${data:=${TMPDIR:-/tmp}}"
for old in "$data"/gpu_check.*; do
    [ ! -d "$old" ] || echo "* $old belongs to another run: delete it if that run has ended"
done
made=$(mktemp -d "$data/gpu_check.XXXXXX")
rm -f "$out"/{data,correct,fast,decode}.json  # else results of an earlier run would stand for a skipped stage

start data $((150 * unit))  # in parallel with the tests, whose speed does not matter
stage correct $((120 * unit))
finish data $((150 * unit))
stage fast $((limit - SECONDS - 30 * unit))  # keeps 30 s for the stage decode
stage decode $((30 * unit))
"$PYTHON" -m benchmarks.gpu.summary "$out"
exit "$failed"
