#!/bin/sh
# Makes .venv: the pinned packages and this tree, editable.  Called by make; safe to run again.
#   usage: tools/setup.sh STAMP      (STAMP is touched at the end; PYTHON=... chooses the interpreter)
set -eu
stamp=$1
cd "$(dirname "$0")/.."

say() { echo "celosia: $*"; }
die() { echo "celosia: $*" >&2; exit 1; }
usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

command -v g++ >/dev/null || die "a C++ compiler is needed; on Debian: apt-get install g++ make"

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=
    for candidate in ${PYTHON:-python3.11 python3}; do
        if usable "$candidate"; then python=$candidate; break; fi
    done
    [ -n "$python" ] || die "Python 3.11 with its venv module is needed; on Debian 12: apt-get install python3-venv"
    say "set-up 1/4: virtual environment with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
else
    say "set-up 1/4: virtual environment is there"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
say "set-up 2/4: torch (the largest package, a minute or two)"
.venv/bin/python -m pip install -qq -c requirements.lock torch==2.13.0
say "set-up 3/4: $(grep -c == requirements.lock) pinned packages (about a minute)"
.venv/bin/python -m pip install -qq -r requirements.lock
say "set-up 4/4: celosia itself, from this folder"
.venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .

rm -f .venv/ready-*
touch "$stamp"
say "set-up done"
