# Sourced by the shell scripts, after they have changed to the root of the repository.
called_from=$OLDPWD  # the folder in which the script was called

# show_help FILE: print the comment at the top of that script, and exit.
show_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"; exit 0; }

# say_next WHAT COMMAND: print the command to run next, in a form that works in the folder where the script was called.
say_next() {
    local there=
    [ "$called_from" = "$PWD" ] || there="cd $(printf %q "$PWD") && "
    echo "* Next, $1: $there$2"
}

# make_venv: create .venv, or exit with one line that says what is missing.
make_venv() {
    command -v python3 >/dev/null || { echo "error: no python3 found: install Python 3.11 or newer" >&2; exit 1; }
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "error: $(python3 --version) is too old: install Python 3.11 or newer, and make it the first python3 in PATH" >&2; exit 1; }
    python3 -m venv .venv ||
        { rm -rf .venv; echo "error: python3 cannot create a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
}

# setup_environment REQUIREMENTS_FILE...: set PYTHON to the first interpreter that has these packages: that of the active environment,
# of .venv, or of PATH. If none has them, install them into .venv with pip.
setup_environment() {
    local candidate files=()
    for candidate in "$@"; do files+=(-r "$candidate"); done
    for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" .venv/bin/python python3 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && "$candidate" tools/check_environment.py "$@" 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    echo "* Installing the requirements into .venv (several GB, only once)" >&2
    [ -x .venv/bin/python ] || make_venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${files[@]}"
    PYTHON=.venv/bin/python
}
