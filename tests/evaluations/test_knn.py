"""Weighted kNN against a loop over the queries, ties and limits."""

import jax
import numpy as np
import pytest

from genrep_jax import data
from genrep_jax.evaluations import knn
from genrep_jax.lib import contracts, errors, mesh as mesh_lib, plugins


def mesh_of(count):
  return mesh_lib.make_mesh(jax.devices()[:count])


def twin(bank, labels, queries, k, temperature, num_classes):
  """Wu et al. 2018, section 3.4, one query at a time, in float64."""
  predicted = []
  for query in queries.astype(np.float64):
    s = []
    for row in bank.astype(np.float64):
      s.append(row @ query / np.linalg.norm(row) / np.linalg.norm(query))
    nearest = np.argsort(-np.array(s), kind="stable")[:k]
    support = np.zeros(num_classes)
    for index in nearest:
      support[labels[index]] += np.exp(s[index] / temperature)
    predicted.append(support.argmax())
  return np.array(predicted)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k, temperature", [(1, 0.07), (7, 0.07), (40, 1.0)])
def test_against_a_loop(devices, k, temperature):
  random = np.random.default_rng(k)
  labels = random.integers(0, 4, 40)
  centers = random.normal(size=(4, 6))
  bank = (centers[labels] + random.normal(size=(40, 6))).astype(np.float32)
  queries = random.normal(size=(37, 6)).astype(np.float32)
  got = knn.classify(
    bank,
    labels,
    queries,
    k=k,
    temperature=temperature,
    num_classes=4,
    mesh=mesh_of(devices),
  )
  np.testing.assert_array_equal(
    got, twin(bank, labels, queries, k, temperature, 4)
  )
  assert got.dtype == np.int32
  assert len(set(got)) > 1


def simple(bank, labels, queries, **changes):
  return knn.classify(
    np.asarray(bank, np.float32),
    np.asarray(labels),
    np.asarray(queries, np.float32),
    **{
      "k": 3,
      "temperature": 0.07,
      "num_classes": 3,
      "mesh": mesh_of(1),
      **changes,
    },
  ).tolist()


def test_several_k_are_each_what_it_is_alone():
  random = np.random.default_rng(3)
  bank, queries = random.normal(size=(2, 30, 4))
  labels = random.integers(0, 3, 30)
  ks, t = (7, 1, 30), 1.0
  got = simple(bank, labels, queries, k=ks, temperature=t)
  alone = [simple(bank, labels, queries, k=k, temperature=t) for k in ks]
  assert got == alone and len(set(map(tuple, got))) == 3


def test_leaving_one_out_is_a_bank_without_it():
  random = np.random.default_rng(4)
  bank, labels = random.normal(size=(12, 4)), random.integers(0, 3, 12)
  got = simple(bank, labels, bank, leave_one_out=True)
  for i, predicted in enumerate(got):
    rest = np.arange(12) != i
    assert simple(bank[rest], labels[rest], bank[i : i + 1]) == [predicted]
  everyone = simple(bank, labels, bank, k=99, leave_one_out=True)
  assert everyone == simple(bank, labels, bank, k=11, leave_one_out=True)


def test_temperature_weighs_one_near_against_two_far():
  bank = [[1, 0], [1, 1], [1, 1]]
  labels = [2, 1, 1]
  assert simple(bank, labels, [[1, 0.1]], temperature=0.07) == [2]
  assert simple(bank, labels, [[1, 0.1]], temperature=100.0) == [1]


def test_a_tiny_temperature_neither_overflows_nor_underflows():
  # Similarities of -1 and of 1, divided by 1e-3: exp would be 0 or infinite.
  assert simple([[-1, 0]] * 2 + [[-1, 0.1]], [2, 2, 1], [[1, 0]],
                temperature=1e-3) == [1]  # fmt: skip
  assert simple([[1, 0]] * 2 + [[1, 1]], [2, 2, 1], [[1, 0]],
                temperature=1e-3) == [2]  # fmt: skip


def test_ties_go_to_the_first_image_and_the_lower_class():
  same = [[1, 1]] * 5
  assert simple(same, [2, 1, 0, 0, 0], [[1, 1]], k=1) == [2]
  assert simple(same, [2, 1, 0, 0, 0], [[1, 1]], k=2) == [1]


def test_lengths_do_not_matter_and_zero_features_are_allowed():
  random = np.random.default_rng(0)
  bank, queries = random.normal(size=(2, 20, 4))
  labels = random.integers(0, 3, 20)
  scaled = bank * random.uniform(0.1, 1e4, (20, 1))
  assert simple(bank, labels, queries) == simple(scaled, labels, queries * 1e3)
  assert simple([[0, 0], [1, 0], [1, 0]], [0, 1, 1], [[0, 0]], k=1) == [0]


def test_chunks_do_not_matter(monkeypatch):
  random = np.random.default_rng(0)
  bank, queries = random.normal(size=(2, 30, 4))
  labels = random.integers(0, 3, 30)
  whole = simple(bank, labels, queries)
  monkeypatch.setattr(knn, "_MATRIX_ENTRIES", 30 * 7)
  assert simple(bank, labels, queries) == whole


def toy(per_class=15):
  random = np.random.default_rng(0)
  labels = np.repeat(np.arange(3, dtype=np.int32), per_class)
  images = random.integers(0, 90, (len(labels), 4, 4, 1))
  images[np.arange(len(labels)), labels] += 150  # a bright row says the class
  split = contracts.Split(images.astype(np.uint8), labels)
  return contracts.Dataset("toy", 3, (), split, split)


def raw_pixels(variables, images):
  return images.reshape(len(images), -1)


@pytest.fixture
def make(monkeypatch):
  monkeypatch.setattr(data, "load", lambda entry, path: toy())

  def make(encode=raw_pixels, **options):
    entry = {"name": "knn", "batch": 16, **options}
    model = contracts.Model(encode=encode)
    return plugins.make("evaluations", entry, model, mesh_of(8), path="here")

  return make


def test_the_plug_in_reports_k_in_the_name(make):
  made = make(k=5)
  assert made.headline == "knn5_accuracy"
  assert dict(made.run({})) == {"knn5_accuracy": 1.0}
  assert made.about == "5 nearest neighbors by cosine, T = 0.07, on toy"

  def blind(variables, images):
    return images[:, 0, 0] * 0 + 1

  ((_, value),) = make(blind, k=5).run({})
  assert value == pytest.approx(1 / 3)  # everything a tie: always class 0


def test_the_plug_in_reports_several_k_of_one_search(make):
  made = make(k=(5, 1))
  assert made.headline == "knn5_accuracy"
  assert dict(made.run({})) == {"knn5_accuracy": 1.0, "knn1_accuracy": 1.0}
  assert made.about.startswith("5, 1 nearest neighbors")


@pytest.mark.parametrize(
  "options, expected",
  [
    ({"k": 0}, "here.k: given 0"),
    ({"k": ()}, "here.k: given (); allowed: an integer in 1..65536, or a tup"),
    ({"k": (5, 5)}, "here.k: given (5, 5)"),
    ({"k": (5, 46)}, ".k: given (5, 46); allowed: at most the 45 training im"),
    ({"k": 5.0}, "here.k: given 5.0"),
    (
      {"temperature": 0.0},
      "here.temperature: given 0.0; allowed: a finite num",
    ),
    ({"temperature": float("nan")}, "here.temperature: given nan"),
    ({"temperature": float("inf")}, "here.temperature: given inf"),
    ({"temperature": 1e30}, "here.temperature: given 1e+30"),
    ({"k": 46}, ".k: given 46; allowed: at most the 45 training images"),
    ({"k": 10, "train_limit": 9}, ".k: given 10; allowed: at most the 9 train"),
  ],
)
def test_bad_input(make, options, expected):
  with pytest.raises(errors.UsageError) as caught:
    make(**options)
  assert expected in str(caught.value)


def test_no_data_named():
  with pytest.raises(errors.UsageError, match="^e.mine.data.name: given ''"):
    entry, model = {"name": "knn"}, contracts.Model()
    plugins.make("evaluations", entry, model, mesh_of(1), path="e.mine")
