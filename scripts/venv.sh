#!/usr/bin/env bash
# Makes the Python environment of the `flowerbed` command, in which nothing of the federation itself runs.
#
#   venv.sh DIRECTORY [EXTRA]      EXTRA: dev or simulate
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extra=${2:-}
python=${PYTHON:-$(scripts/host.sh python)}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Python 3.11 or newer is needed and $python is $("$python" -V 2>&1): set PYTHON to a newer one." >&2; exit 2; }
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    { echo "Python's venv module is missing: apt-get install python3-venv, or run make host as root." >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing the flowerbed command into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
touch "$venv/.ready${extra:+-$extra}" "$venv/.ready"
