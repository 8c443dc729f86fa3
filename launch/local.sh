#!/usr/bin/env bash
# Installs genrep_jax into .venv and runs the quick start: an encoder learns from
# an embedded image generator, on this machine's CPU, in about five minutes.
#
# usage: bash launch/local.sh [--workdir DIR] [--config.a.b=value ...]
#
# Needs Python >= 3.11 and the network for the first installation. The report is
# runs/quickstart/report.html. The same command resumes an interrupted run; a
# finished one only prints its table again.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
case "${1:-}" in -h | --help) usage "$0" && exit ;; esac

ensure_venv
cd "$REPO"
# In place of this shell, so that signals reach it.
exec "$PY" -m genrep_jax.main --config configs/quickstart.py \
  --workdir runs/quickstart "$@"
