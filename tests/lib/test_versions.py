"""Versions: what is known is right, and what is not known is None."""

import json
import re
import subprocess

import jax

from genrep_jax.lib import versions


def test_versions_are_plain_and_right():
  found = versions.versions()
  assert json.loads(json.dumps(found)) == found
  assert found["jax"] == jax.__version__
  assert found["platform"] == "cpu" and found["devices"] == 8
  assert re.fullmatch(r"\d+\.\d+\.\d+.*", found["python"])
  for name in ("jaxlib", "flax", "optax", "orbax", "numpy"):
    assert found[name]


def _git(folder, *arguments):
  subprocess.run(
    ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e",
     *arguments], check=True, capture_output=True,
  )  # fmt: skip


def test_git_commit(tmp_path):
  assert versions.git_commit(tmp_path) is None
  _git(tmp_path, "init")
  assert versions.git_commit(tmp_path) is None  # no commit yet
  (tmp_path / "file").write_text("a")
  _git(tmp_path, "add", "file")
  _git(tmp_path, "commit", "-m", "first")
  commit = versions.git_commit(tmp_path)
  assert re.fullmatch("[0-9a-f]{40}", commit)
  (tmp_path / "file").write_text("b")
  assert versions.git_commit(tmp_path) == f"{commit}-dirty"
  (tmp_path / "inner").mkdir()  # of an enclosing repository: not ours
  assert versions.git_commit(tmp_path / "inner") is None


def test_package_not_installed_is_none(monkeypatch):
  monkeypatch.setitem(versions._PACKAGES, "ghost", "no-such-distribution")
  assert versions.packages()["ghost"] is None
