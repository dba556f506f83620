#!/usr/bin/env bash
# Usage: bash tests/run.sh [flags of pytest]
#
# Run ruff, mypy, and pytest with coverage. Missing packages are installed first. These tests do not see the GPU; if there is one,
# tests/test_cuda.py runs on it afterwards.
#
# Examples:
#
#   bash tests/run.sh
#   bash tests/run.sh -x --durations 10
#   bash tests/run.sh -n 0 --pdb          # in one process
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # sh may be another shell, or bash in its POSIX mode
set +o posix
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup_environment.sh
case ${1:-} in -h|--help) show_help tests/run.sh ;; esac
setup_environment requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest -n 2 --cov=utils --cov=models --cov-report=term:skip-covered --cov-fail-under=90 "$@"
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    LT_TEST_DEVICE=cuda "$PYTHON" -m pytest -n 4 --dist loadscope --max-worker-restart 0 tests/test_cuda.py
fi
say_next "see it work" "bash run_lt_experiments.sh"
