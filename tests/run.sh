#!/usr/bin/env bash
# Everything that must pass: installs what is missing, then ruff and pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/setup_environment.sh
setup_environment requirements.txt tests/requirements.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m pytest "$@"
