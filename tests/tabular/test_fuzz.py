"""Tables of accuracies with anything wrong in them: a benchmark or a typed error, and nothing else."""

import json
import pathlib
import tempfile

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxnas import spaces, tabular
from jaxnas.errors import JaxnasError
from jaxnas.spaces.nb201.accuracies import ACCURACY_COLUMNS, COLUMNS, FIX, NUM_ARCHS
from jaxnas.tabular.csv_table import read_csv, write_csv

MANY = hypothesis.settings(
  max_examples=150,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],  # `unchecked` is the same for all examples
)
pytestmark = pytest.mark.usefixtures("unchecked")
VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
  max_leaves=5,
)


def folder():
  return pathlib.Path(tempfile.mkdtemp())


def nb201_table():
  """The first rows of the table that the package has, as it writes tables."""
  file = folder() / "table.csv"
  write_csv(tabular.open_benchmark(None, spaces.get("nb201")), file)
  return b"".join(file.read_bytes().splitlines(keepends=True)[:4])


def document(name):
  """A small table of a space in its JSON form."""
  space = spaces.get(name)
  codes = space.sample(jax.random.key(0), 2)
  if name == "nb101":
    entries = [dict(zip(("matrix", "ops"), space.to_cell(code), strict=True)) for code in codes]
    return {"archs": [{**entry, "accuracy": 0.9} for entry in map(plain, entries)]}
  cells = [dict(zip(("normal", "reduce"), space.to_cells(code), strict=True)) for code in codes]
  return {"archs": [{**plain(cell), "val_accuracy": 93.0} for cell in cells]}


def plain(value):
  return json.loads(json.dumps(value, default=lambda array: np.asarray(array).tolist()))


TABLES = {"nb201": nb201_table(), **{name: json.dumps(document(name)).encode() for name in ("nb101", "darts")}}


def opened(name, content):
  """Whether it is read, and else refused in one line."""
  path = folder() / "table"
  path.write_bytes(content)
  try:
    if name == "nb201":  # of which only whole tables are benchmarks
      archs, columns = read_csv(path, COLUMNS, ACCURACY_COLUMNS, NUM_ARCHS, FIX, name)
      assert {len(column) for column in columns.values()} == {len(archs)}
      return True
    found = tabular.open_benchmark(path, spaces.get(name))
  except JaxnasError as error:
    message = str(error)
  else:
    accuracies = found.accuracies(found.datasets[0])
    assert accuracies.shape == (len(found.archs),)
    assert (np.isnan(accuracies) | ((accuracies >= 0) & (accuracies <= 100))).all()
    for place, arch in enumerate(found.archs):
      assert found.index(arch) == place
    return True
  assert "\n" not in message and str(path) in message
  return False


def test_the_tables_themselves_are_read():
  for name, content in TABLES.items():
    assert opened(name, content), name


@MANY
@hypothesis.given(data=st.data())
def test_wrong_bytes(data):
  name = data.draw(st.sampled_from(sorted(TABLES)))
  content = bytearray(TABLES[name])
  for _ in range(data.draw(st.integers(1, 4))):
    place = data.draw(st.integers(0, max(0, len(content) - 1)))
    kind = data.draw(st.sampled_from(["cut", "changed", "put in", "the rest"]))
    if kind == "cut":
      del content[place : place + data.draw(st.integers(1, 20))]
    elif kind == "changed":
      content[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    elif kind == "put in":
      content[place:place] = data.draw(
        st.binary(max_size=6) | st.sampled_from([b",", b"\n", b'"', b"-1", b"nan", b"1e9"])
      )
    else:
      del content[place:]
  opened(name, bytes(content))


def paths(node, path=()):
  """Of every value in a document."""
  yield path
  inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
  for key, value in inner:
    yield from paths(value, (*path, key))


@MANY
@hypothesis.given(data=st.data())
def test_wrong_values(data):
  name = data.draw(st.sampled_from(["nb101", "darts"]))
  found = json.loads(TABLES[name])
  path = data.draw(st.sampled_from(list(paths(found))))
  new = data.draw(VALUES)
  if not path:
    found = new
  else:
    node = found
    for key in path[:-1]:
      node = node[key]
    node[path[-1]] = new
  opened(name, json.dumps(found).encode())
