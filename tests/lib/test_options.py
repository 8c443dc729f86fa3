"""Options: what each kind accepts, refuses, reads and says of itself."""

import dataclasses

import ml_collections
import pytest

from genrep_jax.lib import errors, options, plugins

NAN, INF = float("nan"), float("inf")
KINDS = {
  "integer": (
    options.integer(1, "h", low=1, high=8),
    "an integer in 1..8",
    (1, 8),
    (0, 9, 1.0, True, "1", None, NAN),
  ),
  "open integer": (
    options.integer(0, "h"),
    "an integer",
    (-(2**31), 2**31 - 1),
    (2**31, -(2**31) - 1, 0.5),
  ),
  "number": (
    options.number(0.0, "h", low=0, below=1),
    "a finite number >= 0 and < 1",
    (0, 0.0, 0.999),
    (1.0, -0.1, NAN, INF, True, "0", None, 1e-39),
  ),
  "any number": (
    options.number(0.0, "h"),
    "a finite number",
    (-3.4e38, 3.4e38, 7),
    (3.5e38, -INF, 1e39),
  ),
  "even": (
    options.integer(2, "h", low=0, only=("even", lambda x: x % 2 == 0)),
    "an integer >= 0, even",
    (0, 2),
    (1, -2),
  ),
  "flag": (
    options.flag(True, "h"),
    "True or False",
    (True, False),
    (1, 0, "1"),
  ),
  "text": (
    options.text("", "h"),
    "a text",
    ("", "ä/b c", "±"),
    ("\ud800", "a\nb", 3, None, b"x"),
  ),
  "choice": (
    options.choice("a", ("a", "b"), "h"),
    "one of a, b",
    ("a", "b"),
    ("c", "", 1, ("a",)),
  ),
  "one of": (
    options.one_of(18, (18, 34), "h"),
    "one of 18, 34",
    (18, 34),
    (18.0, 19, "18", True),
  ),
  "several": (
    options.several((), options.number(above=0), "h", least=1),
    "a tuple of at least 1, each a finite number > 0",
    ((1.0,), [2, 3]),
    ((), (0.0,), ("a",), 1.0, "abc", (NAN,), None),
  ),
  "pair": (
    options.several((1, 2), options.integer(low=0), "h", lengths=(2, 3)),
    "a tuple of 2 or 3, each an integer >= 0",
    ((1, 2), (1, 2, 3)),
    ((1,), (1, 2, 3, 4), (1, -2)),
  ),
  "interval": (
    options.interval((0.2, 1.0), "h", above=0, high=1),
    "a tuple of 2, each a finite number > 0 and <= 1, the first not above the "
    "second",
    ((0.2, 1.0), (0.5, 0.5)),
    ((1.0, 0.2), (0.0, 1.0), (0.2,), (NAN, 1.0)),
  ),
  "patterns": (
    options.patterns((), "h"),
    "a tuple, each a regular expression",
    ((), ("bias", "a|b")),
    ("bias", ("(",), (1,)),
  ),
  "either": (
    options.either(
      options.number(1.0, "h", low=0),
      options.several((), options.number(low=0)),
    ),
    "a finite number >= 0, or a tuple, each a finite number >= 0",
    (1.0, (1.0, 2.0)),
    (-1.0, (-1.0,), "1"),
  ),
  "anything": (
    options.anything((), "h", "pairs", lambda x: all(len(y) == 2 for y in x)),
    "pairs",
    ((), (("a", 1),)),
    (3, ((1,),), None),
  ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_what_is_right_passes_and_what_is_wrong_is_said(kind):
  option, allowed, right, wrong = KINDS[kind]
  assert option.allowed == allowed
  for value in right:
    options.check("a.b", option, value)
  for value in wrong:
    with pytest.raises(errors.UsageError) as raised:
      options.check("a.b", option, value)
    message = str(raised.value)
    assert message.startswith("a.b: given ")
    assert message.endswith(f"; allowed: {allowed}")
    assert message.isprintable()  # one line, whatever was given


@every_kind
def test_the_default_is_allowed_and_frozen(kind):
  option = KINDS[kind][0]
  if option.default != ():
    options.check("x", option, option.default)
  with pytest.raises(dataclasses.FrozenInstanceError):
    option.default = 3


@pytest.mark.parametrize(
  ("kind", "word", "value"),
  [
    ("integer", "3", 3),
    ("number", "0.25", 0.25),
    ("number", "0", 0.0),
    ("flag", "true", True),
    ("flag", "False", False),
    ("flag", "1", True),
    ("text", "(1, 2)", "(1, 2)"),
    ("choice", "b", "b"),
    ("one of", "34", 34),
    ("several", "(1.5, 2)", (1.5, 2)),
    ("several", "[1.5]", [1.5]),
    ("either", "0.5", 0.5),
    ("either", "(0.5, 1)", (0.5, 1)),
    ("anything", "(('a', 1),)", (("a", 1),)),
  ],
)
def test_a_word_of_the_command_line_is_read(kind, word, value):
  read = options.parse("a.b", KINDS[kind][0], word)
  assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
  ("kind", "word"),
  [
    ("integer", "3.0"),
    ("integer", "many"),
    ("integer", ""),
    ("integer", "9" * 5000),
    ("number", "nan"),
    ("number", "inf"),
    ("number", "1e39"),
    ("flag", "yes"),
    ("choice", "c"),
    ("several", "1.5"),
    ("several", "(1.5"),
    ("several", "__import__('os')"),
    ("several", "(" * 5000),
    ("patterns", "bias"),
  ],
)
def test_a_wrong_word_is_one_line(kind, word):
  with pytest.raises(errors.UsageError, match="^a.b: given .*; allowed: ") as e:
    options.parse("a.b", KINDS[kind][0], word)
  assert len(str(e.value)) < 400


def test_defaults_of_nested_declarations():
  known = {
    "k": options.integer(3, "h"),
    "inner": {"x": options.flag(True, "h")},
    "data": options.Entry("data", "mini", "h"),
    "views": options.Entry("views/latent", "", "h", many=True),
  }
  assert options.defaults(known) == {
    "k": 3,
    "inner": {"x": True},
    "data": {"name": "mini"},
    "views": {},
  }
  known["b"] = options.integer(1, "h", bound=True)
  assert options.bound(known) == ("b",)


def filled(entry, room="views/latent", path="views.latent"):
  entry = ml_collections.ConfigDict(entry)
  plugins.complete(entry, room, path)
  return entry.to_dict()


def test_entries_within_entries_are_completed():
  entry = filled(
    {
      "name": "mixture",
      "views": {
        "gaussian": {"sigma": 0.5},
        "near": {"name": "groups", "weight": 2.0},
      },
    }
  )
  assert entry["views"]["gaussian"] == {
    "name": "gaussian",
    "sigma": 0.5,
    "truncation": 2.0,
    "weight": 1.0,
  }
  assert entry["views"]["near"]["inner"]["name"] == "gaussian"
  assert filled(entry) == entry  # once is enough


@pytest.mark.parametrize(
  ("entry", "line"),
  [
    ({"name": "gaussian", "sigma": NAN}, "views.latent.sigma: given nan"),
    ({"name": "gaussian", "sgma": 1.0}, "views.latent.sgma: unknown option"),
    ({"name": "gauss"}, "views.latent.name: given 'gauss'"),
    ({"name": "../gaussian"}, "views.latent.name: given '../gaussian'"),
    ({"name": ".gaussian"}, "views.latent.name: given '.gaussian'"),
    ({"name": 3}, "views.latent.name: given 3"),
    ({"name": "mixture", "views": 3}, "views.latent.views: given 3"),
    (
      {"name": "mixture", "views": {"gaussian": {"weight": -1.0}}},
      "views.latent.views.gaussian.weight: given -1.0",
    ),
    (
      {
        "name": "mixture",
        "views": {"x": {"name": "groups", "inner": {"a": 1}}},
      },
      "views.latent.views.x.inner.a: unknown option",
    ),
  ],
)
def test_wrong_entries_name_their_key(entry, line):
  with pytest.raises(errors.UsageError) as raised:
    filled(entry)
  assert str(raised.value).startswith(line)
  assert "; allowed: " in str(raised.value)
