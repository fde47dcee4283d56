"""A choice by data: one architecture's, and many at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas.nets.choose import capacities, choose

ARCHS, SIZE = 12, 3
SLOTS = {4: (0, 5, 5, 5)}


def sine(x, own):
  return jnp.sin(x) * own["a"], own["a"].sum()


def product(x, own):
  return x * own["b"], (own["b"] ** 2).sum()


def cube(x, own):
  return x**3 + own["a"], jnp.square(x).sum()


def nothing(x, own):
  return jnp.zeros_like(x), jnp.zeros((), x.dtype)


BRANCHES = (nothing, sine, product, cube)


@pytest.fixture
def drawn(x64):
  rng = np.random.default_rng(0)
  which = jnp.asarray(rng.permutation(np.repeat(np.arange(4, dtype=np.int32), 3)))
  x, so_far = jnp.asarray(rng.normal(size=(2, ARCHS, SIZE)))
  return which, x, {name: jnp.asarray(rng.normal(size=SIZE)) for name in "ab"}, so_far


def chosen(which, x, own, so_far):
  y, shown = choose(BRANCHES, which, x, own, so_far=so_far)
  return y, shown


def switched(which, x, own, so_far):
  y, shown = lax.switch(which, BRANCHES, x, own)
  return so_far + y, shown


def one_by_one(fn, which, x, own, so_far):
  """Without a batch of any kind."""
  return jax.jit(lambda *batch: lax.map(lambda one: fn(one[0], one[1], own, one[2]), batch))(which, x, so_far)


def loss(fn):
  def value(x, own, which, so_far):
    y, shown = fn(which, x, own, so_far)
    return jnp.sin(y).sum() + (shown**2).sum()

  return value


def gradient(fn):
  return lambda which, x, own, so_far: jax.grad(loss(fn), (0, 1, 3))(x, own, which, so_far)


def twice(fn):
  """The derivative of the gradient along itself, by reverse mode."""

  def length(x, own, which, so_far):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(loss(fn), (0, 1))(x, own, which, so_far)))

  return lambda which, x, own, so_far: jax.grad(length, (0, 1))(x, own, which, so_far)


def of_samples(fn):
  """A batch of samples within each architecture, of which only one argument knows."""

  def samples(which, x, own, so_far):
    return jax.vmap(fn, (None, 0, None, None))(which, jnp.stack([x, 2 * x]), own, so_far)

  return samples


def of_sums(fn):
  def samples(which, x, own, so_far):
    return jax.vmap(fn, (None, None, None, 0))(which, x, own, jnp.stack([so_far, -so_far]))

  return samples


def in_a_loop(fn):
  """Twice, with derivatives through a scan that computes its body again."""

  def looped(which, x, own, so_far):
    @jax.checkpoint
    def body(x, _):
      y, shown = fn(which, x, own, so_far)
      return y, shown

    return lax.scan(body, x, None, 2)

  return gradient(looped)


WAYS = {
  "value": lambda fn: fn,
  "gradient": gradient,
  "second derivative": twice,
  "samples": of_samples,
  "gradient of samples": lambda fn: of_samples(gradient(fn)),
  "sums of samples": of_sums,
  "gradient in a loop": in_a_loop,
}


@pytest.mark.parametrize("slots", [None, SLOTS], ids=["any", "slots"])
@pytest.mark.parametrize("way", WAYS)
def test_many_at_once_are_each_alone(drawn, way, slots):
  which, x, own, so_far = drawn
  expected = one_by_one(WAYS[way](switched), which, x, own, so_far)

  @jax.jit
  def together(which, x, so_far):
    with capacities(slots or {}):
      return jax.vmap(WAYS[way](chosen), (0, 0, None, 0))(which, x, own, so_far)

  for one in (together(which, x, so_far), one_by_one(WAYS[way](chosen), which, x, own, so_far)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), one, expected)


def test_what_all_share_is_not_copied(drawn):
  """Neither an input that all architectures have, nor weights: they enter each operation as they are."""
  which, x, own, so_far = drawn
  seen = []

  def shape_of(x, own):
    seen.append((x.shape, own["a"].shape))
    return sine(x, own)

  jax.vmap(lambda w, s: choose([nothing, shape_of, product, cube], w, x[0], own, so_far=s)[0])(which, so_far)
  assert set(seen) == {((SIZE,), (SIZE,))}


def test_too_few_slots_are_not_a_number(drawn):
  which, x, own, so_far = drawn
  with capacities({4: (0, 5, 5, 2)}):
    y, shown = jax.vmap(chosen, (0, 0, None, 0))(which, x, own, so_far)
  assert np.isnan(y).all() and np.isnan(shown).all()


def test_slots_are_those_of_the_program():
  """They end with the block, and do not apply to choices among another number of operations."""
  which, x = jnp.array([0, 1, 1, 1]), jnp.ones((4, SIZE))

  def double(which, x):
    return choose([lambda x: x, lambda x: 2 * x], which, x)

  with capacities(SLOTS):
    inside = jax.vmap(double)(which, x)
  with capacities({2: (1, 1)}):
    assert np.isnan(jax.vmap(double)(which, x)).all()
  for found in (inside, jax.vmap(double)(which, x)):
    np.testing.assert_array_equal(found[:, 0], [1, 2, 2, 2])
