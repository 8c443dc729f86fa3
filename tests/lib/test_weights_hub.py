"""hf:// paths: pinned always, fetched by the real client, from a local hub."""

import functools
import hashlib
import http.server
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrep_jax.lib import errors, weights

PATH = "hf://lab/gan/sub/x.safetensors@main"
TREE = {"x": jnp.arange(3.0)}


def expected():
  return jax.eval_shape(lambda: TREE)


def test_a_remote_file_must_be_pinned(monkeypatch):
  monkeypatch.setattr(weights, "_from_hub", None)  # is not even asked
  with pytest.raises(errors.UsageError, match="sha256 it must have"):
    weights.load(PATH, "", expected())


@pytest.mark.parametrize("path", ["hf://lab/gan", "hf://x", "hf:///a/b"])
def test_a_bad_path_is_refused(path):
  with pytest.raises(errors.UsageError, match="hf://OWNER/REPOSITORY/FILE"):
    weights.resolve(path)


def test_without_the_client_its_name_is_said(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(errors.UsageError, match="pip install"):
    weights.resolve("hf://lab/gan/x.safetensors@absent-client")


class _Hub(http.server.BaseHTTPRequestHandler):
  """Answers for one file as the hub does."""

  def __init__(self, data, *arguments):
    self.data = data
    super().__init__(*arguments)

  def do_HEAD(self):  # noqa: N802, the library's name
    found = self.path == "/lab/gan/resolve/main/sub/x.safetensors"
    self.send_response(200 if found else 404)
    if found:
      self.send_header("X-Repo-Commit", "0" * 40)
      self.send_header("ETag", hashlib.sha256(self.data).hexdigest())
    self.send_header("Content-Length", str(len(self.data) if found else 0))
    self.end_headers()
    return found

  def do_GET(self):  # noqa: N802
    if self.do_HEAD():
      self.wfile.write(self.data)

  def log_message(self, *_):
    pass


def test_the_real_client_fetches_once(tmp_path, monkeypatch):
  hub = pytest.importorskip("huggingface_hub")
  digest = weights.save(tmp_path / "x", TREE)
  data = (tmp_path / "x").read_bytes()
  server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(_Hub, data)
  )
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    url = f"http://127.0.0.1:{server.server_port}"
    weights._from_hub.cache_clear()
    monkeypatch.setattr(
      hub,
      "hf_hub_download",
      functools.partial(
        hub.hf_hub_download, cache_dir=tmp_path / "cache", endpoint=url
      ),
    )
    loaded = weights.load(PATH, digest, expected())
    np.testing.assert_array_equal(loaded["x"], TREE["x"])
    with pytest.raises(errors.UsageError, match="has sha256"):
      weights.load(PATH, "0" * 64, expected())
    with pytest.raises(errors.UsageError, match="cannot fetch .*other"):
      weights.resolve("hf://lab/gan/other@main")
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
