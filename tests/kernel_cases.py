"""Small networks in which a parameter enters in one way each, for tests of `jaxnas.ntk`, and the dense oracle.

A case is made with `jax.enable_x64`: `CASES[name](draw)`, where `draw(*shape)` gives normal float64 numbers, returns
(f, params, x) with samples along the first axis of x and of f's output. Nothing couples the samples.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

N, K = 4, 3


def draw_from(seed=0):
  rng = np.random.default_rng(seed)
  return lambda *shape: jnp.asarray(rng.normal(size=shape))


def dense_kernels(f, params, x1, x2=None, trace_axes=(), diagonal_axes=(), kwargs1=None, kwargs2=None):
  """Of every output leaf the kernel, by `jax.jacrev` of the whole batch and a sum over matching entries in NumPy."""

  @jax.jit
  def rows(params, x, kwargs):
    return jax.tree.leaves(jax.jacrev(lambda p: jax.tree.map(jnp.asarray, f(p, x, **kwargs)))(params))

  def flat(x, kwargs):
    outputs = jax.tree.leaves(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, f(params, x, **(kwargs or {})))))
    leaves, count = rows(params, x, kwargs or {}), len(jax.tree.leaves(params))
    parts = [leaves[i * count : (i + 1) * count] for i in range(len(outputs))]
    return [
      np.concatenate([np.reshape(r, (*out.shape, -1)) for r in own], -1)
      for out, own in zip(outputs, parts, strict=True)
    ]

  first = flat(x1, kwargs1)
  second = first if x2 is None else flat(x2, kwargs2)
  return [contracted(a, b, trace_axes, diagonal_axes) for a, b in zip(first, second, strict=True)]


def contracted(rows1, rows2, trace_axes=(), diagonal_axes=()):
  """Kernel of the Jacobians [*output, P]: axes interleaved, the traced ones averaged, the diagonal ones once."""
  ndim = rows1.ndim - 1
  trace_axes, diagonal_axes = ({a % ndim for a in axes} for axes in (trace_axes, diagonal_axes))
  left = list(range(ndim))
  right = [a if a in trace_axes | diagonal_axes else ndim + a for a in left]
  kept = [b for a in left if a not in trace_axes for b in ([a] if a in diagonal_axes else [a, ndim + a])]
  kernel = np.einsum(rows1, [*left, 2 * ndim], rows2, [*right, 2 * ndim], kept, optimize=True)
  return kernel / math.prod(rows1.shape[a] for a in trace_axes)


def assert_close(got, expected, tolerance=1e-10):
  """Within `tolerance` of the largest entry."""
  assert got.shape == expected.shape
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-30))


CASES = {}


def case(make):
  CASES[make.__name__] = make
  return make


def conv(x, kernel, strides=(1, 1), padding="SAME", numbers=("NHWC", "HWIO", "NHWC"), **how):
  return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, **how)


def head(h, kernel):
  """Mean over all axes between samples and channels, and a dense layer."""
  return jnp.tanh(h).mean(tuple(range(1, h.ndim - 1))) @ kernel


@case
def mlp(draw):
  def f(p, x):
    h = jnp.tanh(x @ p["a"]["w"] + p["a"]["b"][None])
    return h @ p["c"]["w"] + p["c"]["b"]

  return f, {"a": {"w": draw(4, 6), "b": draw(6)}, "c": {"w": draw(6, K), "b": draw(1, K)}}, draw(N, 4)


@case
def strided_and_dilated_convolutions(draw):
  def f(p, x):
    h = jax.nn.relu(conv(x, p["a"], (2, 1), "VALID"))
    return head(conv(h, p["b"], rhs_dilation=(1, 2)), p["c"])

  return f, {"a": draw(3, 2, 2, 4), "b": draw(2, 3, 4, 3), "c": draw(3, K)}, draw(N, 7, 5, 2)


@case
def explicitly_padded_nchw_convolution(draw):
  def f(p, x):
    h = conv(x, p["a"], (2, 2), ((2, 0), (-1, 3)), ("NCHW", "OIHW", "NCHW"))
    return head(jnp.moveaxis(h, 1, -1), p["c"])

  return f, {"a": draw(4, 2, 3, 3), "c": draw(4, K)}, draw(N, 2, 5, 6)


@case
def one_dimensional_convolution(draw):
  def f(p, x):
    return head(conv(x, p["a"], (1,), "SAME", ("NHC", "HIO", "NHC")), p["c"])

  return f, {"a": draw(3, 2, 4), "c": draw(4, K)}, draw(N, 6, 2)


@case
def depthwise_and_grouped_convolutions(draw):
  def f(p, x):
    h = jnp.sin(conv(x, p["a"], feature_group_count=4))
    return head(conv(h, p["b"], (2, 2), feature_group_count=2), p["c"])

  return f, {"a": draw(3, 3, 1, 8), "b": draw(3, 3, 4, 6), "c": draw(6, K)}, draw(N, 4, 5, 4)


@case
def transposed_convolution(draw):
  def f(p, x):
    h = lax.conv_transpose(x, p["a"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return head(h, p["c"])

  return f, {"a": draw(3, 3, 2, 4), "c": draw(4, K)}, draw(N, 3, 3, 2)


@case
def kernel_that_slides_over_itself(draw):
  """The parameter is the image of the convolution, the data its kernel."""

  def f(p, x):
    y = conv(p["a"], jnp.moveaxis(x, 0, -1)[:, :, None], padding="VALID")
    return head(jnp.moveaxis(y, -1, 0), p["c"])

  return f, {"a": draw(2, 5, 4, 1), "c": draw(4, K)}, draw(N, 2, 1)


def tokens(draw):
  """Some indices [N, 5], repeated, negative and out of range of a table of 6."""
  del draw
  return jnp.asarray([[0, 1, 1, 5, 3], [2, 2, 2, 2, 2], [7, -1, 0, 4, 6], [-9, 8, 1, 0, -6]])


@case
def clipped_embedding(draw):
  return (
    lambda p, x: head(jnp.take(p["t"], x, axis=0, mode="clip") ** 2, p["c"]),
    {"t": draw(6, 4), "c": draw(4, K)},
    tokens(draw),
  )


@case
def filled_embedding(draw):
  return (
    lambda p, x: head(jnp.take(p["t"], x, axis=0, mode="fill", fill_value=0.5), p["c"]),
    {"t": draw(6, 4), "c": draw(4, K)},
    tokens(draw),
  )


@case
def indexed_embedding(draw):
  return lambda p, x: head(p["t"][x], p["c"]), {"t": draw(6, 4), "c": draw(4, K)}, tokens(draw) % 6


@case
def embedding_of_other_ranks(draw):
  """Columns, rows of a matrix each, single entries: of these the second alone is a whole row of a table."""

  def f(p, x):
    columns = jnp.take(p["columns"], x, axis=1, mode="clip")  # [3, N, 5]
    matrices = jnp.take(p["matrices"], x[:, 0], axis=0, mode="clip").sum(1)  # [N, 3]
    return columns.sum((0, 2))[:, None] * p["entries"][x[:, 1] % 6][:, None] * jnp.tanh(matrices)

  return f, {"columns": draw(3, 6), "matrices": draw(6, 2, 3), "entries": draw(6)}, tokens(draw)


@case
def attention(draw):
  def f(p, x):
    q, k, v = (jnp.einsum("ntd,dhe->nhte", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("nhte,nhue->nhtu", q, k))
    mixed = jnp.einsum("nhtu,nhue->nthe", weights, v)
    return head(x + jnp.einsum("nthe,hed->ntd", mixed, p["o"]), p["c"])

  sizes = {"q": (4, 2, 3), "k": (4, 2, 3), "v": (4, 2, 3), "o": (2, 3, 4), "c": (4, K)}
  return f, {name: draw(*size) for name, size in sizes.items()}, draw(N, 5, 4)


@case
def shared_parameters(draw):
  """Used by two products; by a product and a sum; by a product with itself."""

  def f(p, x):
    h = jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) + p["b"].T[0][None]
    return (h * (x @ p["b"])) @ p["c"] + x[:, :1] * jnp.sum(p["d"] @ p["d"])

  return f, {"w": draw(4, 4), "b": draw(4, 1), "c": draw(4, K), "d": draw(2, 2)}, draw(N, 4)


@case
def control_flow(draw):
  def f(p, x):
    def step(h, w):
      return jnp.tanh(h @ w + h @ p["closed"]), None

    h, _ = lax.scan(step, x, p["scanned"])
    h = lax.cond(jnp.asarray(True), lambda h: h @ p["branch"], lambda h: h, h)
    h = lax.fori_loop(0, 2, lambda i, h: jnp.sin(h @ p["loop"]), h)
    return lax.switch(jnp.asarray(1), [lambda h: h[:, :K], lambda h: h @ p["switch"]], h)

  sizes = {"closed": (4, 4), "scanned": (3, 4, 4), "branch": (4, 4), "loop": (4, 4), "switch": (4, K)}
  return f, {name: draw(*size) for name, size in sizes.items()}, draw(N, 4)


@case
def nested_calls(draw):
  @functools.partial(jax.jit, static_argnames="power")
  def layer(w, h, power):
    return jnp.tanh(h @ w) ** power

  @jax.checkpoint
  def block(p, h):
    return layer(p["b"], layer(p["a"], h, power=1), power=2)

  def f(p, x):
    twice = layer(p["twice"], layer(p["twice"], x, power=1), power=1)
    return jax.jit(lambda p, h: block(p, h) @ p["c"])(p, x + twice)

  sizes = {"a": (4, 6), "b": (6, 5), "c": (5, K), "twice": (4, 4)}
  return f, {name: draw(*size) for name, size in sizes.items()}, draw(N, 4)


@jax.custom_jvp
def forward_rule(w, h):
  return h @ w


@forward_rule.defjvp
def _(primals, tangents):
  (w, h), (dw, dh) = primals, tangents
  return h @ w, h @ dw + dh @ w


@jax.custom_vjp
def reverse_rule(w, h):
  return jnp.sin(h @ w)


def _reverse(residuals, d):
  w, h = residuals
  d = d * jnp.cos(h @ w)
  return h.T @ d, d @ w.T


reverse_rule.defvjp(lambda w, h: (reverse_rule(w, h), (w, h)), _reverse)


@case
def own_derivatives(draw):
  def f(p, x):
    return reverse_rule(p["b"], jax.nn.gelu(forward_rule(p["a"], x) @ p["m"])) @ jax.nn.silu(p["c"])

  return f, {"a": draw(4, 5), "m": draw(5, 6), "b": draw(6, 5), "c": draw(5, K)}, draw(N, 4)


@case
def batched_and_left_products(draw):
  def f(p, x):
    h = jnp.einsum("ngi,gij->ngj", x, p["groups"])  # a dense layer a group
    h = jnp.tanh(jnp.einsum("jg,ngi->nji", p["left"], h))
    left = lax.dot_general(p["both"], h, (((1, 0), (1, 2)), ((), ())))  # the parameter comes first: [K, N]
    return left.T + lax.dot_general(h, p["other"], (((2, 1), (0, 1)), ((), ())))

  sizes = {"groups": (3, 2, 4), "left": (5, 3), "both": (4, 5, K), "other": (4, 5, K)}
  return f, {name: draw(*size) for name, size in sizes.items()}, draw(N, 3, 2)


@case
def rearranged_parameters(draw):
  def f(p, x):
    w = p["a"].reshape(2, 6).T.reshape(4, 3)[:, None].transpose(2, 1, 0).squeeze(1).astype(jnp.float64)
    h = jnp.tanh(x @ w) @ jnp.broadcast_to(p["b"], (1, 4, 5))[0]
    h = h @ lax.stop_gradient(p["stopped"]) + x @ (2 * p["scaled"]) + x @ p["cut"][1:4]
    return h @ jnp.flip(p["flipped"], 0) @ jnp.concatenate([p["part"], p["part"]], 1)[:, :K]

  sizes = {"a": (12,), "b": (4, 5), "stopped": (5, 5), "scaled": (3, 5), "cut": (5, 5), "flipped": (5, 4)}
  return f, {name: draw(*size) for name, size in (sizes | {"part": (4, 2)}).items()}, draw(N, 3)


@case
def products_of_parameters(draw):
  """Low-rank factors, and one parameter's norm in another's product."""

  def f(p, x):
    h = jnp.tanh(x @ (p["left"] @ p["right"]))
    return h @ (p["w"] * p["gain"] / jnp.linalg.norm(p["v"])) + (p["row"] @ p["v"])[None]

  shapes = {"left": (4, 2), "right": (2, 5), "w": (5, K), "gain": (), "v": (2, K), "row": (2,)}
  return f, {name: draw(*shape) for name, shape in shapes.items()}, draw(N, 4)


@case
def scaled_parameters(draw):
  """The usual parametrisation of neural tangent kernels, and numbers that are data or parameters."""

  def f(p, x):
    h = jax.nn.relu(conv(x, p["a"] / math.sqrt(18)) + 0.1 * p["bias"][None, None, None])
    h = jnp.tanh(h.mean((1, 2)) @ (2.0 * (p["b"] * p["gain"]).T))
    squared = p["number"] * p["number"]
    return (h * squared) @ (p["c"] / jnp.exp(p["number"]))

  shapes = {"a": (3, 3, 2, 5), "bias": (5,), "b": (6, 5), "gain": (), "number": (), "c": (6, K)}
  return f, {name: draw(*shape) for name, shape in shapes.items()}, draw(N, 4, 4, 2)


@case
def odd_places(draw):
  """A bias by broadcast, one that is an output as it is, one unused, a scalar, an empty one."""

  def f(p, x):
    h = x @ p["w"] * p["scale"] + jnp.broadcast_to(p["bias"], (x.shape[0], K))
    return h, jnp.broadcast_to(p["output"], (x.shape[0], 2)), x[:, :1] * p["scale"]

  params = {"w": draw(4, K), "bias": draw(K), "output": draw(2), "scale": draw(), "unused": draw(2, 2), "e": draw(0, 2)}
  return f, params, draw(N, 4)


class FlaxModel(nn.Module):
  """The layers of flax.linen with parameters in a model for tokens."""

  @nn.compact
  def __call__(self, x):
    how = {"param_dtype": jnp.float64}
    h = nn.Embed(6, 4, **how)(x)
    h = h + nn.MultiHeadDotProductAttention(2, **how)(nn.LayerNorm(**how)(h))
    h = nn.Conv(4, (3,), **how)(h)
    return nn.Dense(K, **how)(jnp.tanh(nn.DenseGeneral((2, 3), **how)(h)).mean(1).reshape(h.shape[0], -1))


@case
def flax_linen(draw):
  model, x = FlaxModel(), tokens(draw) % 6
  with jax.numpy_dtype_promotion("standard"):  # Flax's layers promote
    params = jax.jit(model.init)(jax.random.key(0), x)

  def f(params, x):
    with jax.numpy_dtype_promotion("standard"):
      return model.apply(params, x)

  return f, params, x


class NnxModel(nnx.Module):
  def __init__(self, rngs):
    how = {"rngs": rngs, "param_dtype": jnp.float64}
    self.first = nnx.Conv(2, 4, (3, 3), strides=2, **how)
    self.norm = nnx.LayerNorm(4, **how)
    self.last = nnx.Linear(4, K, **how)

  def __call__(self, x):
    return self.last(nnx.gelu(self.norm(self.first(x))).mean((1, 2)))


@case
def flax_nnx(draw):
  graph, params, rest = nnx.split(NnxModel(nnx.Rngs(0)), nnx.Param, ...)

  def f(params, x):
    with jax.numpy_dtype_promotion("standard"):
      return nnx.merge(graph, params, rest)(x)

  return f, params, draw(N, 5, 4, 2)
