#!/usr/bin/env bash
# One experiment on a Cloud TPU slice of any size: every worker (host) runs the
# same command, and JAX joins them into one program.
#
# usage: bash launch/tpu_pod.sh create  NAME ZONE TYPE   e.g. my-pod us-east5-a v6e-32
#        bash launch/tpu_pod.sh install NAME ZONE        this commit, on all workers
#        bash launch/tpu_pod.sh mount   NAME ZONE BUCKET gs://BUCKET at /mnt/genrep
#        bash launch/tpu_pod.sh run     NAME ZONE -- --config FILE --workdir DIR ...
#        bash launch/tpu_pod.sh delete  NAME ZONE
#
# Needs gcloud, logged in, with a project. TPU_CREATE_FLAGS adds flags to create,
# e.g. TPU_CREATE_FLAGS=--spot. DIR must be one folder that all workers see, such
# as /mnt/genrep/runs/X. After a preemption: create, install, mount and run again;
# the same command resumes from the newest sound checkpoint.
#
# Written from gcloud's documentation and tried with a stand-in for gcloud; never
# executed on a TPU: see launch/README.md.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
case "${1:---help}" in -h | --help) usage "$0" && exit ;; esac

[ $# -ge 3 ] || die "$1: NAME and ZONE are missing (--help shows how)"
action="$1" name="$2" zone="$3"
shift 3
command -v gcloud >/dev/null ||
  die "no gcloud on PATH (https://cloud.google.com/sdk/docs/install)"

tpu() {
  local verb="$1"
  shift
  gcloud compute tpus tpu-vm "$verb" "$name" --zone="$zone" "$@"
}

# The operating system image that each TPU generation asks for.
image_of() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-*) echo tpu-ubuntu2204-base ;;
    *) die "TYPE: unknown $1; known: v2-N v3-N v4-N v5litepod-N v5p-N v6e-N" ;;
  esac
}

case "$action" in
  create)
    [ $# -eq 1 ] || die "create: needs NAME ZONE TYPE"
    image="$(image_of "$1")" || exit 2
    # shellcheck disable=SC2086  # several flags in one variable
    tpu create --accelerator-type="$1" --version="$image" \
      ${TPU_CREATE_FLAGS:-}
    ;;
  install)
    # The commit, not the working tree: a run's side file names its commit.
    git -C "$REPO" diff --quiet HEAD ||
      die "install: uncommitted changes; commit them, so that runs can name them"
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    git -C "$REPO" bundle create "$folder/genrep_jax.bundle" HEAD
    gcloud compute tpus tpu-vm scp "$folder/genrep_jax.bundle" "$name": \
      --zone="$zone" --worker=all
    # The images' own Python is 3.10: uv brings one that is new enough.
    tpu ssh --worker=all --command='set -e
      rm -rf genrep_jax && git clone -q genrep_jax.bundle genrep_jax
      cd genrep_jax
      python3 -m pip install -q --user uv
      python3 -m uv venv -q --clear --python 3.12 .venv
      python3 -m uv pip install -q --python .venv/bin/python -e ".[tpu]"
      .venv/bin/python -c "import jax; print(jax.__version__)"'
    ;;
  mount)
    [ $# -eq 1 ] || die "mount: needs NAME ZONE BUCKET"
    tpu ssh --worker=all --command="set -e
      if ! command -v gcsfuse >/dev/null; then
        export GCSFUSE_REPO=gcsfuse-\$(lsb_release -c -s)
        echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc]\
 https://packages.cloud.google.com/apt \$GCSFUSE_REPO main\" |
          sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
          sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
        sudo apt-get update -qq && sudo apt-get install -y -qq gcsfuse
      fi
      sudo mkdir -p /mnt/genrep && sudo chown \$(id -u) /mnt/genrep
      mountpoint -q /mnt/genrep ||
        gcsfuse --implicit-dirs --rename-dir-limit=100000 $(printf %q "$1") /mnt/genrep"
    ;;
  run)
    [ "${1:-}" = "--" ] || die "run: needs NAME ZONE -- --config FILE ..."
    shift
    [ $# -gt 0 ] || die "run: nothing after --"
    tpu ssh --worker=all --command="cd genrep_jax && JAX_PLATFORMS=tpu \
.venv/bin/python -m genrep_jax.main --config.distributed.mode=on \
$(printf '%q ' "$@")"
    ;;
  delete)
    [ $# -eq 0 ] || die "delete: needs NAME ZONE and nothing else"
    tpu delete --quiet
    ;;
  *) die "unknown action $action; known: create install mount run delete" ;;
esac
