#!/usr/bin/env bash
# Installs genrep_jax with CUDA 13 into .venv and runs an experiment on every
# NVIDIA GPU of this machine.
#
# usage: bash launch/gpu.sh [--config FILE --workdir DIR] [--config.a.b=value ...]
#
# Default: configs/quickstart.py into runs/quickstart_gpu. Needs Python >= 3.11
# and an NVIDIA driver for CUDA 13 (580 or newer); CUDA itself is installed by
# pip. CUDA_VISIBLE_DEVICES=0 takes one GPU of several. The same command resumes.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
case "${1:-}" in -h | --help) usage "$0" && exit ;; esac

command -v nvidia-smi >/dev/null ||
  die "no nvidia-smi on PATH: is there an NVIDIA GPU and its driver?"
ensure_venv cuda13
cd "$REPO"
# JAX falls back to the CPU with a warning only: refuse instead.
export JAX_PLATFORMS=cuda
"$PY" -c 'import jax; print("devices:", *jax.devices())' ||
  die "JAX finds no GPU; the lines above say why"
case " $*" in
  *" --config "* | *" --config="*) ;;
  *) set -- --config configs/quickstart.py "$@" ;;
esac
case " $*" in
  *" --workdir"*) ;;
  *) set -- --workdir runs/quickstart_gpu "$@" ;;
esac
# In place of this shell, so that signals reach it.
exec "$PY" -m genrep_jax.main "$@"
