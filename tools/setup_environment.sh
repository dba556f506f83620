# Sourced by the shell scripts, from the repository's root, with the requirements files as arguments: sets PYTHON to an
# interpreter that has them: the active one, or .venv (created, and filled with pip, when it is missing or incomplete).
setup_environment() {
    local candidate files=()
    for candidate in "$@"; do files+=(-r "$candidate"); done
    for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" .venv/bin/python python3 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && "$candidate" tools/check_environment.py "$@" 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    echo "* Installing requirements into .venv (several GB, once)" >&2
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${files[@]}"
    PYTHON=.venv/bin/python
}
