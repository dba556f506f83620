#!/usr/bin/env bash
# Everything that must pass: installs what is missing, then ruff, mypy and pytest with coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup_environment.sh
setup_environment requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest --cov=utils --cov=models --cov-report=term:skip-covered --cov-fail-under=90 "$@"
