"""What every space promises, for each one that is registered; see `jaxnas.base.Space`."""

import dataclasses
import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import encoder_is_there, png_size
from hypothesis import strategies as st

from conformance.tiny import batch_of, network_of, reads_images, samples, several, spaces_of
from jaxnas import base, data, registry, spaces
from jaxnas.errors import ArchitectureError, BenchmarkError, ConfigError, DatasetError

OF_IMAGES = [name for name in spaces.names() if reads_images(spaces.get(name))]
READABLE = [name for name in spaces.names() if name != "encoder" or encoder_is_there]
of_images = pytest.mark.parametrize("space", spaces_of(OF_IMAGES), indirect=True)


@pytest.fixture(params=spaces_of(spaces.names()))
def space(request):
  return spaces.get(request.param)


def rows(codes):
  return [tuple(code) for code in np.asarray(codes).tolist()]


# The space itself


def test_is_a_value(space):
  again = registry.get("space", space.name)()
  lacking = {member for member in vars(base.Space) if not member.startswith("_") and not hasattr(space, member)}
  assert not lacking
  assert again == space and hash(again) == hash(space) and space.name in spaces.names()
  assert len(set(space.ops)) == len(space.ops) and len(space) > 0


def test_text_and_code_are_inverse(space):
  for code in samples(space, 100):
    text = space.format(code)
    found = space.parse(text)
    np.testing.assert_array_equal(found, code)
    assert found.dtype == code.dtype and text == text.strip() and "\n" not in text
    np.testing.assert_array_equal(space.parse(f"  {text}\n"), code)
    np.testing.assert_array_equal(space.as_codes(text), code)


def test_samples_are_codes_and_reproducible(space):
  codes, key = samples(space, 30), jax.random.key(0)
  assert codes.shape == (30, codes.shape[1]) and np.issubdtype(codes.dtype, np.integer)
  assert space.as_codes(codes.astype(np.int64)).dtype == codes.dtype
  np.testing.assert_array_equal(space.as_codes(codes), codes)
  np.testing.assert_array_equal(space.sample(key, 30), codes)
  assert len(set(rows(codes))) == 30 and rows(space.sample(key, 10)) == rows(codes)[:10]
  assert rows(space.sample(jax.random.key(1), 30)) != rows(codes)
  assert len(space.sample(key, 7, unique=False)) == 7


def test_neighbours_and_mutants(space):
  for i, code in enumerate(samples(space, 3)):
    around = space.neighbours(code)
    np.testing.assert_array_equal(space.as_codes(around), around)
    known = set(rows(around))
    assert len(known) == len(around) and tuple(code.tolist()) not in known
    for j in range(5):
      mutant = space.mutate(jax.random.fold_in(jax.random.key(i), j), code)
      assert tuple(mutant.tolist()) in known
    np.testing.assert_array_equal(mutant, space.mutate(jax.random.fold_in(jax.random.key(i), 4), code))
    assert all(tuple(code.tolist()) in set(rows(space.neighbours(other))) for other in around[:: len(around) // 3 + 1])


def test_canonical_forms_and_shapes_can_be_compared(space):
  codes = samples(space, 30)
  for of in (space.canonical, space.shape):
    found = [of(code) for code in codes]
    assert len({hash(one) for one in found}) <= len(set(found))
    assert found == [of(code.copy()) for code in codes]
  for code in codes:
    twins = [other for other in space.neighbours(code)[:20] if space.canonical(other) == space.canonical(code)]
    assert all(space.is_connected(other) == space.is_connected(code) for other in twins)


def test_indices_are_inverse(space):
  if not isinstance(space, base.Indexed):
    pytest.skip("this space's architectures have no numbers")
  for index in {0, len(space) - 1, *np.random.default_rng(0).integers(0, len(space), 20).tolist()}:
    assert space.index_of(space.from_index(index)) == index
  for index in (-1, len(space)):
    with pytest.raises(ArchitectureError, match=str(index)):
      space.from_index(index)
  if len(space) < 100_000:
    assert len(set(rows(space.enumerate_all()))) == len(space)


def test_settings_of_papers_have_names(space):
  assert dict(space.published("no such method", "cifar10")) == {}
  for method in registry.names("algorithm"):
    published = dict(space.published(method, "cifar10"))
    assert all(isinstance(name, str) and value is not None for name, value in published.items())


# Malformed input


def test_malformed_codes_are_refused(space, unchecked):
  codes = samples(space, 2)
  for wrong in (codes[:, 1:], codes.astype(float), codes[0, 0], np.full_like(codes, 99), np.zeros((0,)), "", [["a"]]):
    with pytest.raises(ArchitectureError) as error:
      space.as_codes(wrong)
    assert str(error.value)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=st.data())
def test_malformed_texts_are_refused(data):
  """A typed error or an architecture: of any text, and of a good one with a few wrong characters."""
  space = spaces.get(data.draw(st.sampled_from(READABLE)))
  text = space.format(samples(space, 5)[data.draw(st.integers(0, 4))])
  kind = data.draw(st.sampled_from(["any", "cut", "changed", "doubled"]))
  if kind == "any":
    text = data.draw(st.text(max_size=60))
  elif kind == "doubled":
    text = text + data.draw(st.sampled_from(["", " ", ",", "+"])) + text
  else:
    place = data.draw(st.integers(0, len(text) - 1))
    text = text[:place] + ("" if kind == "cut" else data.draw(st.characters())) + text[place + 1 :]
  try:
    code = space.parse(text)
  except ArchitectureError:
    pass
  else:
    np.testing.assert_array_equal(space.parse(space.format(code)), code)
    np.testing.assert_array_equal(space.as_codes(code), code)


def test_configs_are_refused(space):
  code = samples(space, 1)[0]
  for wrong in ({"channels": 0}, {"cells": -1}, {"classes": 0}):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
      space.network(dataclasses.replace(base.NetworkConfig(), shape=space.shape(code), **wrong))


def test_inputs_of_another_shape_are_refused(space, unchecked):
  network, codes = several(space, 1)
  arch, params = network.encode(codes)[0], jax.eval_shape(network.init, jax.random.key(0))
  for shape in ((8, 8, 3), (2, 2, 8, 8, 3), (2, 8, 8, 4), (2, 3, 3, 3)):
    with pytest.raises((ConfigError, DatasetError)):
      jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32), arch)


@of_images
def test_images_of_odd_sides_are_taken_or_refused(space, unchecked):
  """With the sides that would do, never by an error of JAX's."""
  network, codes = several(space, 1)
  arch, params = network.encode(codes)[0], jax.eval_shape(network.init, jax.random.key(0))
  said = {}
  for side in (1, 3, 6, 8, 33):
    try:
      jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32), arch)
    except DatasetError as error:
      said[side] = str(error)
  assert 8 not in said
  assert all("expected (N, H, W, 3) with H and W" in text for text in said.values())


@of_images
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bfloat16, jnp.float16])
def test_images_of_another_type_are_refused(space, unchecked, dtype):
  network, codes = several(space, 1)
  arch, params = network.encode(codes)[0], jax.eval_shape(network.init, jax.random.key(0))
  with pytest.raises(DatasetError, match=f"images of type {jnp.dtype(dtype)}: expected float32, normalised"):
    jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, 8, 8, 3), dtype), arch)


def test_benchmarks_are_refused(space, tmp_path):
  (tmp_path / "other.txt").write_text("no benchmark")
  for path in (tmp_path / "absent", tmp_path / "other.txt"):
    with pytest.raises(BenchmarkError, match="--benchmark="):
      space.read_benchmark(path)


def test_drawings_are_pictures(space, tmp_path):
  for i, code in enumerate(samples(space, 2)):
    folder = tmp_path / str(i)
    folder.mkdir()
    pictures = space.draw(code, folder)
    assert pictures and {p.file for p in pictures} == {p.name for p in folder.iterdir()}
    for picture in pictures:
      assert min(png_size(folder / picture.file)) > 50 and picture.caption


# The network


def test_costs_are_those_of_the_module_and_of_the_network(space):
  for code in samples(space, 2):
    network, config = network_of(space, code)
    module, x = space.module(code, config), jnp.zeros_like(batch_of(space, 1).inputs)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    costs = space.costs(code, config, 8)
    assert costs.params == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    run = functools.partial(module.apply, mutable=["batch_stats"])
    biases = costs.macs - multiply_adds(jax.make_jaxpr(run)(variables, x).jaxpr)
    assert biases in (0, config.classes)  # published counts may have the classifier's bias
    found = network.costs(jnp.asarray(network.encode(code[None])[0]), 8)
    np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(costs, np.float64), rtol=1e-6)


def test_costs_follow_the_data_set(space):
  """Its classes and the side of its images; of what is no image, the benchmark's network is meant."""
  code = samples(space, 1)[0]
  found = {(k, side): space.costs_on(code, unread("made_up", k, side)) for k, side in ((10, 32), (100, 32), (10, 16))}
  usual, classes, side = found.values()
  if reads_images(space) or not base.lacking(space, base.Pretrained):
    assert (classes.params - usual.params) % 90 == 0 and classes.params > usual.params == side.params
    assert classes.macs > usual.macs > side.macs
  else:
    assert usual == classes == side == space.costs(code)


def unread(name, classes, side):
  """A data set that no image is taken from."""
  return data.ImageSource(name, classes, (side, side, 3), 1, np.zeros(3), np.ones(3), read=lambda indices: None)


def multiply_adds(jaxpr):
  """Of all convolutions and matrix products in a traced function."""
  total = 0
  for equation in jaxpr.eqns:
    for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        total += multiply_adds(inner)
    shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "conv_general_dilated":
      numbers = equation.params["dimension_numbers"]
      features = numbers.rhs_spec[0]
      total += out * math.prod(side for i, side in enumerate(shapes[1]) if i != features)
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      total += out * math.prod(shapes[0][i] for i in contracted)
  return total


def test_logits_are_defined_and_depend_on_the_architecture_alone(space):
  """Also of disconnected cells; a code's numbers do not depend on which others are encoded with it."""
  network, codes = several(space, 4)
  params = network.init(jax.random.key(0))
  run = jax.jit(lambda arch, x: network.apply(network.start(params, arch), network.embed(params, x), arch).logits)
  encoded = network.encode(codes)
  inputs = batch_of(space).inputs
  logits = np.stack([run(arch, inputs) for arch in encoded])
  assert logits.shape == (len(codes), 4, network.classes) and np.isfinite(logits).all()
  np.testing.assert_array_equal(network.encode(codes[::-1]), encoded[::-1])
  alive = [space.is_connected(code) for code in codes]
  spread = np.ptp(logits, axis=1).max(-1)
  assert (spread[alive] > 0).all()
  np.testing.assert_allclose(spread[np.logical_not(alive)], 0, atol=1e-5)  # nothing of the inputs arrives
