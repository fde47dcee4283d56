"""NASI's samples: T~ of one Gumbel sample on one batch, and its gradient in the architecture parameters."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.base import Differentiable, Network, Source
from jaxnas.data.batches import plain_batch
from jaxnas.nets import relaxation

BatchNorm = Literal["batch", "batch_frozen"]


def trace_norm(loss: Callable[[PyTree, Array], Array], params: PyTree, weights: Array) -> Float[Array, ""]:
  """T~ = ||d loss / d params||^2 over all parameters; `loss(params, weights)` is the mean loss of a batch.

  Its gradient in `weights` is 2 <v, d(d loss/d params)/d weights>, v = d loss/d params: the reverse pass of a reverse
  pass, for about three times the cost of T~ itself.
  """
  gradient = jax.grad(loss)(params, weights)
  return jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)]).sum()


def logits_of(network: Network, batch_norm: BatchNorm) -> Callable[[PyTree, Array, Array], Float[Array, "N K"]]:
  """(params, images, weights) -> outputs of a space's mixture, with this batch normalisation.

  In mode `batch_frozen` the statistics are constants with respect to the parameters, but not to the weights: a
  derivative in the weights of a gradient in the parameters is that of the frozen gradient as it is at each weights.
  """

  def logits(params, images, weights):
    inputs = network.embed(params, images)
    if batch_norm == "batch":
      return network.apply(params, inputs, weights, "batch").logits
    held = network.apply(lax.stop_gradient(params), inputs, weights, "batch", collect=("stats",)).stats
    return network.apply(params, inputs, weights, "running", stats=held).logits

  return logits


class Sampling(NamedTuple):
  """How weights are drawn; hashable."""

  kind: Literal["straight_through", "soft"]
  tau: float
  space: Differentiable
  reduced: bool

  def relax(self, alphas: Array, noise: Array) -> Array:
    """Mixing weights of one Gumbel sample, [cells, E, O]."""
    allowed = self.space.choices(self.reduced)
    return relaxation.relax(alphas, noise, self.kind, self.tau, None if allowed.all() else allowed)


def draw_batch(
  source: Source, key: Array, size: int, *, gaussian: bool, random_labels: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Images float32 [b, H, W, 3], not augmented, or noise of their shape, and labels int32 [b]."""
  image_key, label_key = jax.random.split(key)
  if gaussian:
    images, labels = np.asarray(jax.random.normal(image_key, (size, *source.image_shape), jnp.float32)), None
  else:
    images, labels = plain_batch(source, image_key, size)
  if random_labels or labels is None:
    labels = np.asarray(jax.random.randint(label_key, (size,), 0, source.classes, jnp.int32))
  return images, labels


def compiled(sampling: Sampling, network: Network, batch_norm: BatchNorm, args: Any) -> Callable[..., Any]:
  """The program (params, alphas, noise key, images, labels) -> (T~, dT~/dalpha) for arguments of these shapes."""
  leaves, tree = jax.tree.flatten(args)
  return _program(sampling, network, batch_norm, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.lru_cache(maxsize=4)
def _program(sampling: Sampling, network: Network, batch_norm: BatchNorm, tree: Any, shapes: tuple[Any, ...]):
  """One for all steps and seeds."""

  def step(params, alphas, key, images, labels):
    noise = jax.random.gumbel(key, alphas.shape, alphas.dtype)
    outputs = logits_of(network, batch_norm)

    def loss(params, weights):
      logits = outputs(params, images, weights)
      return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    return jax.value_and_grad(lambda a: trace_norm(loss, params, sampling.relax(a, noise)))(alphas)

  return jax.jit(step).lower(*jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])).compile()
