#!/usr/bin/env bash
# Installs genrep_jax with its test tools into .venv and runs the tests.
#
# usage: bash launch/test.sh [--slow] [pytest arguments]
#
# Without --slow: what two CPU cores run in eleven to nineteen minutes. With it: all.
# Examples: bash launch/test.sh tests/lib -x
#           bash launch/test.sh --slow -k compile_for

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
case "${1:-}" in -h | --help) usage "$0" && exit ;; esac

ensure_venv dev
cd "$REPO"
# Two workers, whole files each: what two cores can do.
exec "$PY" -m pytest -q -n 2 --dist loadfile "$@"
