# Shared by the scripts of this folder: makes .venv and installs into it.
# Sourced, not run. Sets REPO (the repository's root) and PY (.venv's Python).

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$REPO/.venv"
PY="$VENV/bin/python"

die() {
  echo "error: $*" >&2
  exit 2
}

# Prints the comment at the top of a script: its --help.
usage() {
  sed -n '2,/^[^#]/{/^#/!d; s/^# \{0,1\}//; p}' "$1"
}

# True when $1 runs, is new enough, and can make an environment with pip (some
# systems split that off: Debian's python3-venv).
_python_fits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1
}

# Prints the first Python that fits; the tested versions are asked first. A name
# that exists may still fail (pyenv's shims), so each one is tried.
_find_python() {
  local name
  if [ -n "${GENREP_PYTHON:-}" ]; then
    _python_fits "$GENREP_PYTHON" ||
      die "GENREP_PYTHON: $GENREP_PYTHON is no Python >= 3.11 with venv and pip"
    echo "$GENREP_PYTHON"
    return
  fi
  for name in python3.12 python3.11 python3.13 python3.14 \
    python3 python; do
    if _python_fits "$name"; then
      command -v "$name"
      return
    fi
  done
  die "no Python >= 3.11 with venv and pip on PATH (Debian, Ubuntu: apt" \
    "install python3-venv); GENREP_PYTHON=/path/to/python3.12 names one"
}

# Runs a command that ends with this shell, should a signal end that.
_passing_signals() {
  "$@" &
  _child=$!
  trap 'kill -TERM $_child 2>/dev/null; wait $_child || true; exit 75' \
    TERM INT HUP
  _code=0
  wait $_child || _code=$?
  trap - TERM INT HUP
  return $_code
}

# ensure_venv [EXTRA]: makes .venv and installs the package with an extra, or
# does nothing when that was done from these same files: a stamp holds their
# checksum and is written last, so that an interrupted install is done again.
ensure_venv() {
  local extra="${1:-}" python stamp want
  want="$(cat "$REPO/requirements.txt" "$REPO/pyproject.toml" | cksum)"
  stamp="$VENV/.installed-${extra:-base}"
  if _python_fits "$PY" && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    return
  fi
  if ! _python_fits "$PY"; then
    python="$(_find_python)" || exit 2
    echo "making .venv with $python"
    _passing_signals "$python" -m venv --clear "$VENV" || die "cannot make $VENV"
  fi
  echo "installing genrep_jax${extra:+[$extra]} into .venv (a minute or two)"
  _passing_signals "$PY" -m pip install --quiet --disable-pip-version-check \
    --editable "$REPO${extra:+[$extra]}" || die "the installation failed"
  echo "$want" >"$stamp"
}
