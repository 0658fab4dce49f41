#!/usr/bin/env bash
# Makes the Python environment of the `flowerbed` command, in which nothing of the federation itself runs. Does nothing when it is
# there and pyproject.toml has not changed since; mends one that was interrupted.
#
#   venv.sh DIRECTORY [EXTRA]      EXTRA: dev or simulate
#
# PYTHON  the interpreter to make it with (default: the newest that scripts/host.sh finds)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extra=${2:-}
stamp=$venv/.ready${extra:+-$extra}
if [ "$stamp" -nt pyproject.toml ] && [ "$venv/.ready" -nt pyproject.toml ]; then exit 0; fi
python=${PYTHON:-$(scripts/host.sh python)}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Python 3.11 or newer is needed and $python is $("$python" -V 2>&1): set PYTHON to a newer one." >&2; exit 2; }
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    { echo "Python's venv module is missing: apt-get install python3-venv, or run make host as root." >&2; exit 2; }
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
echo "installing the flowerbed command into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
touch "$stamp" "$venv/.ready"
