#!/bin/sh
# Usage: make_venv.sh FOLDER [PYTHON]
# Makes a virtual environment with the first Python that can (3.10 or newer, with venv and pip), or says in one
# line what is missing. An environment that works is left as it is.

folder=$1
wanted=$2

fail() {
    echo "make: $1" >&2
    exit 1
}

# Prints nothing when "$1" will do, else what is wrong with it.
complaint() {
    command -v "$1" >/dev/null 2>&1 || { echo "$1: not found"; return; }
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        { echo "$1: does not start"; return; }
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "$1 is Python $version, and Ganvas needs 3.10 or newer"; return; }
    "$1" -c 'import venv' 2>/dev/null ||
        { echo "$1 has no venv module; on Debian and Ubuntu: apt install python$version-venv"; return; }
    "$1" -c 'import ensurepip' 2>/dev/null ||
        { echo "$1 has no pip for new environments; on Debian and Ubuntu: apt install python$version-venv"; return; }
}

if "$folder/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null &&
    "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

found=
reason=
for python in ${wanted:-python3.13 python3.12 python3.11 python3.10 python3}; do
    problem=$(complaint "$python")
    if [ -z "$problem" ]; then
        found=$python
        break
    fi
    # Of several reasons the most telling one: a Python that is there but will not do, over one that is not there.
    case $problem in
    *": not found" | *": does not start") ;;
    *) [ -n "$reason" ] || reason=$problem ;;
    esac
done
if [ -z "$found" ]; then
    [ -z "$wanted" ] || fail "PYTHON=$wanted will not do: $problem"
    fail "${reason:-no Python found; install Python 3.10 or newer}; or name one with PYTHON=..."
fi
# A folder that is there is half an environment, or one whose Python is gone.
if [ -e "$folder" ] && [ ! -e "$folder/pyvenv.cfg" ] && [ -n "$(ls -A "$folder")" ]; then
    fail "$folder is there but is no virtual environment; remove it, or choose another place with VENV=..."
fi
echo "Making a virtual environment in $folder with $("$found" --version)."
"$found" -m venv --clear "$folder" || fail "$found could not make a virtual environment in $folder, see above"
