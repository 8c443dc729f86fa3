"""The command line: one line for bad input, its cause only with --debug."""

import pytest

from genrep_jax.lib import errors, options
from genrep_jax.tools import _cli


def plugin_fails(argv):
  _cli.parse(_cli.parser("a.tool", "A tool."), argv)
  try:
    raise KeyError("deep inside")
  except KeyError as error:
    raise errors.PluginError("plug-in my_lab.x failed in make") from error


@pytest.mark.parametrize("debug", [False, True])
def test_the_cause_is_shown_only_on_request(debug, capsys, monkeypatch):
  monkeypatch.setattr("sys.argv", ["tool", *["--debug"] * debug])
  with pytest.raises(SystemExit) as stopped:
    _cli.run(plugin_fails)
  *before, line = capsys.readouterr().err.strip().splitlines()
  assert stopped.value.code == errors.EXIT_USAGE
  assert line == "error: plug-in my_lab.x failed in make"
  assert bool(before) == debug
  assert not debug or before[-1] == "KeyError: 'deep inside'"


DECLARED = {
  "k": options.integer(1, low=1),
  "sigma": options.number(0.2, low=0),
  "on": options.flag(True),
  "rows": options.several((), options.integer()),
  "views": options.Entry("views/latent", "gaussian", "inner"),
}


def test_set_reads_values_as_they_are_declared():
  words = ["k=3", "sigma=1", "on=false", "rows=(1, 2)"]
  values = _cli.read_set(words, DECLARED, "view")
  assert values == {"k": 3, "sigma": 1.0, "on": False, "rows": (1, 2)}


@pytest.mark.parametrize(
  ("word", "line"),
  [
    ("k", "--set: given 'k'; allowed: key=value"),
    ("k=0", "view.k: given 0; allowed: an integer >= 1"),
    ("sigma=nan", "view.sigma: given nan; allowed: a finite number >= 0"),
    ("on=maybe", "view.on: given 'maybe'; allowed: True or False"),
    ("sigm=1", "view.sigm: unknown option; .*; nearest: 'sigma'"),
    ("views=ball", "view.views: unknown option; allowed: k, sigma, on, rows"),
  ],
)
def test_set_refuses_in_the_dialect_of_configs(word, line):
  with pytest.raises(errors.UsageError, match=line):
    _cli.read_set([word], DECLARED, "view")
