"""One network on one batch, as proxies see it, and what several of them compute from it."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PyTree

from jaxnas.base import Collect, Evaluated, Mode, Network, Observation, Output, Parametrised, Single
from jaxnas.errors import ConfigError


class Evaluation(Evaluated):
  """`base.Evaluated`: proxies that are measured together share their passes. Lives inside one trace.

  Attributes:
    network, arch, inputs, problem, rows: as given.
    params: the initial values of this architecture.
  """

  def __init__(
    self,
    network: Parametrised,
    params: PyTree,
    arch: Array,
    inputs: Array,
    labels: Num[Array, "N ..."] | None = None,
    problem: PyTree = None,
    key: Array | None = None,
    rows: int | None = None,
    collects: Sequence[Collect] = (),
  ):
    """`collects`: what the proxies declare, in any order."""
    self.network = cast(Single, network)  # the engine has asked whether it is what each proxy needs
    self.params, self.arch, self.inputs = network.start(params, arch), arch, inputs
    self.problem, self.rows = problem, rows
    self._labels, self._key = labels, key
    self._collects = tuple(sorted(set(collects)))
    self._known: dict[Hashable, Any] = {}

  @property
  def labels(self) -> Num[Array, "N ..."]:
    """Classes of the inputs, or targets.

    Raises:
      ConfigError: the batch has none.
    """
    if self._labels is None:
      raise ConfigError("a proxy of the loss needs labels: give Batch(inputs, labels)")
    return self._labels

  @property
  def key(self) -> Array:
    """For proxies that draw; the same for all architectures.

    Raises:
      ConfigError: there is none.
    """
    if self._key is None:
      raise ConfigError("key=None: a proxy that draws weights and inputs needs one; give the evaluation a key")
    return self._key

  @property
  def observation(self) -> Observation:
    """What the forward pass in mode `batch` shows."""
    observation = self.shown("observation").observation
    assert observation is not None
    return observation

  @property
  def stats(self) -> PyTree:
    """Statistics of this batch at every batch normalisation, as constants."""

    def compute():
      return self.network.apply(self.params, embedded(self), self.arch, "batch", collect=("stats",)).stats

    return jax.lax.stop_gradient(self.once("stats", compute))

  def shown(self, what: Collect) -> Output:
    """As `base.Evaluated`."""
    collect = self._collects if what in self._collects else (what,)

    def compute():
      return self.network.apply(self.params, embedded(self), self.arch, "batch", collect=collect)

    return self.once(collect, compute)

  def logits(self, params: PyTree, mode: Mode) -> Float[Array, "N K"]:
    """The network's outputs for other parameters."""
    stats = self.stats if mode == "running" else None
    return self.network.apply(params, self.network.embed(params, self.inputs), self.arch, mode, stats=stats).logits

  def loss_gradient(self, mode: Mode = "batch") -> PyTree:
    """d mean loss / d params."""
    return self.once(("loss", mode), lambda: jax.grad(lambda p: mean_loss(self, p, mode))(self.params))

  def once(self, name: Hashable, compute: Callable[[], Any]) -> Any:
    """As `base.Evaluated`."""
    if name not in self._known:
      self._known[name] = compute()
    return self._known[name]


def embedded(evaluation: Evaluated) -> Array:
  """The inputs as numbers in which derivatives can be taken."""
  return evaluation.network.embed(evaluation.params, evaluation.inputs)


def observe(network: Network, params: PyTree, inputs: Array, arch: Array) -> Observation:
  """What a forward pass in mode `batch` shows."""
  seen = network.apply(params, inputs, arch, "batch", collect=("observation",)).observation
  assert seen is not None
  return seen


def mean_loss(evaluation: Evaluated, params: PyTree, mode: Mode) -> Float[Array, ""]:
  """Mean loss of the batch."""
  return losses(evaluation.logits(params, mode), evaluation.labels).mean()


def frozen(evaluation: Evaluated, params: PyTree, inputs: Array) -> Float[Array, "N K"]:
  """The outputs of any inputs with the statistics of the batch as constants: samples do not see each other."""
  network = evaluation.network
  x = network.embed(params, inputs)
  return network.apply(params, x, evaluation.arch, "running", stats=evaluation.stats, rows=True).logits


def rows_at_once(evaluation: Evaluated, usual: int) -> int:
  """How many rows of a per-sample pass to hold: `usual` on a CPU, all samples elsewhere, fewer if memory is short."""
  wanted = usual if jax.default_backend() == "cpu" else len(evaluation.inputs)
  return wanted if evaluation.rows is None else min(evaluation.rows, wanted)


def losses(logits: Float[Array, "N K"], labels: Num[Array, "N ..."]) -> Float[Array, " N"]:
  """Every sample's loss: cross-entropy where labels are classes, mean squared error where they are targets [N, K]."""
  if jnp.issubdtype(labels.dtype, jnp.integer):
    return cross_entropy(logits, labels)
  return jnp.square(logits - labels).mean(-1)


def cross_entropy(logits: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
  """Cross-entropy of every sample, in nats."""
  hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return -(jax.nn.log_softmax(logits) * hot).sum(-1)


def sum_of_squares(tree: PyTree) -> Float[Array, ""]:
  """Squared Euclidean norm of all leaves together."""
  squares = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)]
  return sum(squares[1:], squares[0])


def names_of(path: tuple) -> list[str]:
  """A leaf's key path as names, ["last", "bn", "scale"]."""
  return jax.tree_util.keystr(path, simple=True, separator="/").split("/")
