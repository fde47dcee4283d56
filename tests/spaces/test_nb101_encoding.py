"""NAS-Bench-101 cells: text, matrices, pruning, isomorphism, channels, costs, randomness."""

import itertools
import json

import jax
import numpy as np
import pytest

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nb101 import NB101, channels, costs, encoding, isomorphism, sampling
from jaxnas.spaces.nb101.encoding import ABSENT, CONV1, CONV3, EDGES, INPUT, OPS, OUTPUT, POOL

TEXT = "conv3x3:0|maxpool3x3:01|conv1x1:1|output:023"
CONV = OPS[CONV3]


@pytest.fixture(scope="module")
def cells(shared):
  return json.loads((shared / "data" / "nasbench101_2500.json").read_text())["archs"]


@pytest.fixture(scope="module")
def counts(fixtures):
  return json.loads((fixtures / "gennas" / "g5_nb101_params.json").read_text())["archs"]


def matrix_of(vertices, *edges):
  matrix = np.zeros((vertices, vertices), int)
  for s, t in edges:
    matrix[s, t] = 1
  return matrix.tolist()


# Forms


def test_text_and_array():
  arch = encoding.parse(f"  {TEXT}\n")
  assert arch.dtype == np.int8
  assert arch.shape == (28,)
  present = {EDGES[i] for i in np.flatnonzero(arch[:21])}
  assert present == {(1, 0), (2, 0), (2, 1), (3, 1), (4, 0), (4, 2), (4, 3)}
  assert arch[21:].tolist() == [INPUT, CONV3, POOL, CONV1, OUTPUT, ABSENT, ABSENT]
  assert encoding.format(arch) == TEXT
  assert encoding.format(encoding.parse("output:0")) == "output:0"


def test_every_form_round_trips(cells):
  for cell in cells[::5]:
    arch = encoding.from_cell(cell["matrix"], cell["ops"])
    np.testing.assert_array_equal(encoding.parse(encoding.format(arch)), arch)
    assert encoding.to_cell(arch) == (cell["matrix"], cell["ops"])
  archs = sampling.sample(jax.random.key(0), 20)
  np.testing.assert_array_equal(encoding.as_codes(archs.reshape(4, 5, 28)).reshape(20, 28), archs)
  np.testing.assert_array_equal(encoding.as_codes(TEXT), encoding.parse(TEXT))


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("conv5x5:0|output:1", ["vertex 1", "'conv5x5:0'", "'conv5x5'", "conv1x1"]),
    ("conv3x3:0|output:2", ["vertex 2", "'output:2'", "before 2"]),
    ("conv3x3:0|output:10", ["vertex 2", "ascending"]),
    ("conv3x3:0|output:11", ["vertex 2"]),
    ("conv3x3:0|output1", ["vertex 2", "'output1'"]),
    ("conv3x3:x|output:1", ["vertex 1"]),
    ("conv3x3:0|conv1x1:1", ["vertex 2", "output"]),
    ("output:0|output:1", ["vertex 1", "unknown operation 'output'"]),
    ("conv3x3:0|output:", ["no path"]),
    ("|".join(["conv3x3:0"] * 6 + ["output:1"]), ["8 vertices"]),
    ("", ["vertex 1", "output"]),
    (7, ["7"]),
  ],
)
def test_parse_says_where(unchecked, text, parts):
  with pytest.raises(ArchitectureError) as error:
    encoding.parse(text)
  assert all(part in str(error.value) for part in parts), error.value
  assert "\n" not in str(error.value)


CHAIN = [(0, 1), (1, 2)]
DENSE = [(s, t) for s in range(5) for t in range(s + 1, 5)]  # ten edges, all on paths


@pytest.mark.parametrize(
  ("matrix", "ops", "parts"),
  [
    (matrix_of(3, *CHAIN, (2, 1)), ["input", CONV, "output"], [r"matrix[2][1] = 1", "upper triangular"]),
    (matrix_of(3, *CHAIN, (1, 1)), ["input", CONV, "output"], [r"matrix[1][1] = 1", "upper triangular"]),
    ([[0, 2], [0, 0]], ["input", "output"], ["matrix[0][1] = 2"]),
    ([[0, 1, 0], [0, 0, 1]], ["input", CONV, "output"], ["shape [2, 3]"]),
    ([[0, 1], [0]], ["input", "output"], ["ragged"]),
    ([[0.0, 1.0], [0.0, 0.0]], ["input", "output"], ["float64"]),
    ("x", ["input", "output"], ["matrix"]),
    (matrix_of(8, (0, 7)), ["input", *[CONV] * 6, "output"], ["8 vertices"]),
    ([[0]], ["input"], ["1 vertices"]),
    (matrix_of(5, *DENSE), ["input", CONV, CONV, CONV, "output"], ["10 edges", "at most 9"]),
    (matrix_of(3, *CHAIN), ["input", "conv7x7", "output"], ["ops[1] = 'conv7x7'", CONV]),
    (matrix_of(3, *CHAIN), ["input", "absent", "output"], ["ops[1]"]),
    (matrix_of(3, *CHAIN), [CONV, CONV, "output"], ["ops[0]", "input"]),
    (matrix_of(3, *CHAIN), ["input", CONV, CONV], ["ops[2]", "output"]),
    (matrix_of(3, *CHAIN), ["input", CONV], ["2 labels for 3"]),
    (matrix_of(4, (0, 1), (2, 3)), ["input", CONV, CONV, "output"], ["no path", "vertex 3"]),
  ],
)
def test_from_cell_says_where(matrix, ops, parts):
  with pytest.raises(ArchitectureError) as error:
    encoding.from_cell(matrix, ops)
  assert all(part in str(error.value) for part in parts), error.value
  assert "\n" not in str(error.value)


def changed(place, value):
  arch = encoding.parse(TEXT)
  arch[place] = value
  return arch


@pytest.mark.parametrize(
  ("archs", "message"),
  [
    (np.zeros(27, int), r"\[27\]"),
    (np.zeros(28), "float64"),
    (changed(3, 2), r"archs\[3\] = 2"),
    (changed(22, 9), r"archs\[22\] = 9"),
    (changed(21, CONV3), "vertex 0 .* is conv3x3"),
    (changed(24, OUTPUT), "vertex 3 .* is output"),
    (changed(27, CONV1), "vertex 6 of 5 is conv1x1"),
    (changed(EDGES.index((6, 2)), 1), "from vertex 2 to 6, which is absent"),
    (np.full(28, 0), "vertex 1 of 7 is input"),
    (changed(slice(21, 28), ABSENT), "vertex 0 of 0 is absent"),
    (np.stack([encoding.parse(TEXT), changed(slice(0, 21), 0)]), r"archs\[1\]: no path"),
    ([[1], [1, 2]], "ragged"),
    (None, "object"),
  ],
)
def test_bad_arrays(archs, message):
  with pytest.raises(ArchitectureError, match=message) as error:
    encoding.as_codes(archs)
  assert "\n" not in str(error.value)
  for function in (encoding.format, encoding.prune, encoding.alphas, isomorphism.canonical, costs.params):
    with pytest.raises(ArchitectureError):
      function(archs)


def test_one_architecture_means_one():
  with pytest.raises(ArchitectureError, match=r"\[2, 28\]"):
    encoding.format([encoding.parse(TEXT)] * 2)


def test_has_path():
  assert encoding.is_connected(TEXT)
  assert encoding.is_connected(encoding.parse("output:0"))
  assert not encoding.is_connected(changed(slice(0, 21), 0))
  with pytest.raises(ArchitectureError):
    encoding.is_connected(changed(22, 9))


# Pruning and isomorphism


def test_pruning_by_hand():
  # 2 leads nowhere, 4 does not see the input; both go, with their edges.
  text = "conv3x3:0|maxpool3x3:01|conv1x1:1|conv3x3:|output:034"
  matrix, ops = encoding.prune(text)
  assert matrix.tolist() == matrix_of(4, (0, 1), (1, 2), (0, 3), (2, 3))
  assert ops == [INPUT, CONV3, CONV1, OUTPUT]
  assert encoding.format(text) == text  # kept as given
  assert isomorphism.canonical(text) == isomorphism.canonical("conv3x3:0|conv1x1:1|output:02")
  useless = "conv3x3:0|conv3x3:01|conv3x3:012|conv3x3:0123|conv3x3:01234|output:0"  # 16 edges, one useful
  assert len(encoding.prune(useless)[1]) == 2


@pytest.mark.parametrize(("vertices", "number"), [(2, 1), (3, 6), (4, 84)])
def test_published_numbers_of_unique_cells(vertices, number):
  """Cells of exactly so many vertices after pruning; 1 + 6 + 84 + 2,441 + 62,010 + 359,082 = 423,624."""
  pairs = [(s, t) for t in range(vertices) for s in range(t)]
  found = set()
  for present in itertools.product((0, 1), repeat=len(pairs)):
    matrix = matrix_of(vertices, *itertools.compress(pairs, present))
    for inner in itertools.product(OPS[1:4], repeat=vertices - 2):
      try:
        arch = encoding.from_cell(matrix, ["input", *inner, "output"])
      except ArchitectureError:
        continue
      if len(encoding.prune(arch)[1]) == vertices:
        found.add(isomorphism.canonical(arch))
  assert len(found) == number


def test_isomorphic_cells_share_a_hash():
  """Every order of the vertices that is still upper triangular."""
  for arch in sampling.sample(jax.random.key(2), 15):
    matrix, ops = (np.array(part) for part in encoding.to_cell(arch))
    hashes = set()
    for inner in itertools.permutations(range(1, 6)):
      order = [0, *inner, 6]
      moved = matrix[np.ix_(order, order)]
      if not np.tril(moved).any():
        hashes.add(isomorphism.canonical(encoding.from_cell(moved, ops[order])))
    assert hashes == {isomorphism.canonical(arch)}
  assert isomorphism.canonical(TEXT) != isomorphism.canonical(TEXT.replace("conv1x1", "conv3x3"))


def test_benchmark_cells_differ(cells):
  assert len({isomorphism.canonical(encoding.from_cell(c["matrix"], c["ops"])) for c in cells[:400]}) == 400


def test_index_is_a_number_for_random_streams():
  numbers = [isomorphism.index_of(a) for a in sampling.sample(jax.random.key(0), 50)]
  assert len(set(numbers)) == 50
  assert all(0 <= n < 2**31 for n in numbers)


# Channels and costs


def test_counts_equal_the_reference_code(counts):
  for cell in counts:
    arch = encoding.from_cell(cell["matrix"], cell["ops"])
    matrix, ops = encoding.prune(arch)
    assert (len(ops), matrix.sum()) == (cell["pruned_vertices"], cell["pruned_edges"])
    assert channels.vertex_channels(matrix, 16, 16) == cell["vertex_channels_stack0"]
    assert costs.params(arch, channels=16, classes=0) == cell["params_backbone_stem16"]
    assert costs.params(arch) == cell["params_full_nb101_stem128_with_classifier10"]


def test_uneven_channels_equal_the_reference_code(fixtures):
  cell = json.loads((fixtures / "gennas" / "g5_nb101_forward.json").read_text())
  matrix, _ = encoding.prune(encoding.from_cell(cell["matrix"], cell["ops"]))
  wanted = cell["vertex_channels"]
  assert channels.vertex_channels(matrix, 8, 8) == wanted["stack0"]
  assert channels.vertex_channels(matrix, 8, 16) == wanted["stack1_module0"]
  assert channels.vertex_channels(matrix, 16, 16) == wanted["stack1_module1"]


def test_macs_by_hand():
  # conv3x3 of 4, 8, 16 channels after a projection; image of 8, one module a stack, 3 classes.
  stem, head = 27 * 4 * 64, 16 * 3 + 3
  first = (4 * 4 + 9 * 16) * 64
  second = (4 * 8 + 9 * 64) * 16
  third = (8 * 16 + 9 * 256) * 4
  found = costs.macs("conv3x3:0|output:1", 8, channels=4, modules=1, classes=3)
  assert found == stem + first + second + third + head
  assert costs.macs("output:0", 8, channels=4, modules=1, classes=3) == stem + 16 * 64 + 32 * 16 + 128 * 4 + head


@pytest.mark.parametrize(
  ("name", "value"), [("channels", 0), ("modules", 1.0), ("classes", -1), ("image_size", 3), ("channels", True)]
)
def test_bad_sizes(unchecked, name, value):
  with pytest.raises(ConfigError, match=name):
    costs.macs(TEXT, **{name: value})


# Alphas


def test_alphas_by_hand():
  # Five vertices: inner ones in slots 3 to 5. Feeding vertices are 2 and 3: ranks 0 and 1, and 1 leads to both.
  rows = encoding.alphas(TEXT)
  assert rows.shape == (1, 7, 11)
  assert rows.dtype == np.float32
  wanted = np.zeros((7, 11))
  wanted[3, [0, 7]] = 1
  wanted[4, [0, 3, 9]] = 1
  wanted[5, [3, 8, 10]] = 1
  wanted[6, [0, 4, 5]] = 1
  np.testing.assert_array_equal(rows[0], wanted)
  batch = sampling.sample(jax.random.key(0), 6)
  assert encoding.alphas(batch.reshape(2, 3, 28)).shape == (2, 3, 1, 7, 11)
  np.testing.assert_array_equal(encoding.alphas(batch)[4], encoding.alphas(batch[4]))


def test_last_slot_always_feeds_the_output():
  for rows in encoding.alphas(sampling.sample(jax.random.key(1), 60))[:, 0]:
    assert rows[6, 5] == 1 or not rows[6, 1:6].any()
    assert rows[6].any()


# Randomness


def test_sample(unchecked):
  key = jax.random.key(3)
  archs = sampling.sample(key, 80)
  np.testing.assert_array_equal(archs[:10], sampling.sample(key, 10))
  np.testing.assert_array_equal(encoding.as_codes(archs), archs)
  assert (archs[:, -1] == OUTPUT).all()
  assert len({isomorphism.canonical(a) for a in archs}) == 80
  many = sampling.sample(key, 600, unique=False)
  np.testing.assert_allclose([(many[:, 22:27] == op).mean() for op in (CONV3, CONV1, POOL)], 1 / 3, atol=0.03)
  assert sampling.sample(key, 0).shape == (0, 28)
  for bad in (-1, True, 2.0, 10**6):
    with pytest.raises(ConfigError, match="n is"):
      sampling.sample(key, bad)


def test_mutation_rates():
  """A cell of one edge with ten more to spare: nearly every draw is valid, so rates are those of the coins."""
  parent = encoding.parse("conv3x3:0|conv3x3:|conv3x3:|conv3x3:|conv3x3:|output:01")
  children = np.stack([sampling.resample(k, parent) for k in jax.random.split(jax.random.key(0), 600)])
  flips = (children[:, :21] != parent[:21]).mean(0)
  kept = [i for i, (t, s) in enumerate(EDGES) if s > 0 and t < 6]  # a flip of these never breaks the cell
  np.testing.assert_allclose(flips[kept].mean(), 1 / 7, atol=0.02)
  changes = children[:, 22:27] != CONV3
  np.testing.assert_allclose(changes.mean(), 1 / 5, atol=0.03)
  assert set(np.unique(children[:, 22:27])) == {CONV3, CONV1, POOL}
  np.testing.assert_array_equal(encoding.as_codes(children), children)


def test_mutation_of_a_smaller_cell():
  for key in jax.random.split(jax.random.key(1), 20):
    child = sampling.resample(key, TEXT, changes=1e-6)
    assert child[-1] == OUTPUT
    assert isomorphism.canonical(child) == isomorphism.canonical(TEXT)
    np.testing.assert_array_equal(child, sampling.resample(key, TEXT, changes=1e-6))
  for rate in (0, -1, 6, float("nan")):
    with pytest.raises(ConfigError, match="changes"):
      sampling.resample(jax.random.key(0), TEXT, rate)


def test_space_object():
  space = NB101()
  assert hash(space) == hash(NB101())
  assert space.name == "nb101"
  assert len(space) == 423_624
  assert space.format(space.parse(TEXT)) == TEXT
  assert hash(space.network(space.default_config)) == hash(space.network(space.default_config))


def test_neighbours_of_a_cell_of_fewer_vertices_have_seven():
  """The chain of one 3x3 convolution; the five that it lacks are there to be connected."""
  around = sampling.neighbours("conv3x3:0|output:1")
  np.testing.assert_array_equal(encoding.as_codes(around), around)
  assert len({encoding.format(one) for one in around}) == len(around)
  assert "conv1x1:0|conv3x3:|conv3x3:|conv3x3:|conv3x3:|output:1" in {encoding.format(one) for one in around}
  changed = {isomorphism.canonical(one) for one in around} - {isomorphism.canonical("conv3x3:0|output:1")}
  assert isomorphism.canonical("conv3x3:0|output:01") in changed
