"""The network of one NAS-Bench-NLP recipe in plain Flax: to read first, and to train in a loop of one's own.

    module = NLPModule("linear:x.h0|tanh:0|states:1", channels=600, cells=3, classes=48)
    variables = module.init(jax.random.key(0), sequences)  # {"params": ...}
    outputs = module.apply(variables, sequences)  # [N, T, D] as [N, T D]
    outputs = module.apply(variables, sequences, train=True, rngs={"dropout": key})

The network: a linear encoder; layers, each a recurrent cell that computes the recipe's nodes at every step; a linear
decoder. In training, a quarter of the units between layers and a tenth of the last layer's are dropped, the same at all
steps, and a tenth of the entries of every matrix that reads something else than x. (In the published code those
matrices are not trained either, see `jaxnas.gennas.sequences`.)

Source: Klyuchnikov et al., "NAS-Bench-NLP", 2020; Li et al., "Generic Neural Architecture Search via Regression",
NeurIPS 2021, released code.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import BLEND, FIRST, LEAKY_RELU, LINEAR, PREVIOUS, PROD, SIGM, SUM, TANH, Node, X
from jaxnas.spaces.nlp.network import DROPOUT, layer_sizes

States = list[Float[Array, "N H"]]

_HIGHEST = jax.lax.Precision.HIGHEST


def _uniform(bound: float):
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Cell(nn.Module):
  """One layer's recurrent cell; node k's bias is `node_k/bias`, its matrix of input i `node_k/kernel_i`.

  Attributes:
    arch: in text form.
    hidden: units of every node and state.
  """

  arch: str
  hidden: int

  @nn.compact
  def __call__(self, xs: Float[Array, "T N I"], train: bool = False) -> Float[Array, "T N H"]:
    recipe = encoding.unpack(self.arch)
    parameters = {k: self._parameters(k, node, xs, train) for k, node in enumerate(recipe.nodes) if node.op == LINEAR}
    states: States = [jnp.zeros((xs.shape[1], self.hidden), xs.dtype) for _ in recipe.states]
    outputs = []
    for x in xs:
      values = {X: x} | {PREVIOUS + i: state for i, state in enumerate(states)}
      for k, (op, sources) in enumerate(recipe.nodes):
        read = [values[source] for source in sources]
        if op == LINEAR:
          own = parameters[k]
          parts = [jnp.matmul(one, own[f"kernel_{i}"], precision=_HIGHEST) for i, one in enumerate(read)]
          values[FIRST + k] = sum(parts, own["bias"][None])
        else:
          values[FIRST + k] = _elementwise(op, read)
      states = [values[FIRST + k] for k in recipe.states]
      outputs.append(states[0])
    return jnp.stack(outputs)

  def _parameters(self, k: int, node: Node, xs: Array, train: bool) -> Mapping[str, Array]:
    own = Linear(
      tuple(xs.shape[-1] if source == X else self.hidden for source in node.sources),
      self.hidden,
      tuple(source != X for source in node.sources),
      name=f"node_{k}",
    )
    return own(train)


class Linear(nn.Module):
  """The parameters of a `linear` node: a matrix an input, and a bias.

  Attributes:
    inputs: size of each input.
    hidden: of the node.
    dropped: whether an input's matrix has weight drop.
  """

  inputs: tuple[int, ...]
  hidden: int
  dropped: tuple[bool, ...]

  @nn.compact
  def __call__(self, train: bool = False) -> dict[str, Array]:
    draw = _uniform(self.hidden**-0.5)
    found = {"bias": self.param("bias", draw, (self.hidden,))}
    for i, (size, dropped) in enumerate(zip(self.inputs, self.dropped, strict=True)):
      kernel = self.param(f"kernel_{i}", draw, (size, self.hidden))
      rate = DROPOUT["matrices"] if dropped else 0.0
      found[f"kernel_{i}"] = nn.Dropout(rate, deterministic=not train)(kernel)
    return found


class NLPModule(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, see `encoding.parse`.
    channels: H, hidden units (600 in the benchmark).
    cells: layers (3 in the benchmark).
    classes: D, numbers of a step.
  """

  arch: str
  channels: int = 600
  cells: int = 3
  classes: int = 48

  @nn.compact
  def __call__(self, sequences: Float[Array, "N T D"], train: bool = False) -> Float[Array, "N K"]:
    """The outputs of all steps side by side; with `train`, dropout asks for the stream "dropout".

    Raises:
      ArchitectureError: `arch` is not the text form of an architecture.
    """
    sizes = layer_sizes(self.channels, self.cells)
    encoder = nn.Dense(
      sizes[0][0], precision=_HIGHEST, kernel_init=_uniform(0.1), bias_init=_uniform(self.classes**-0.5), name="encoder"
    )
    x = encoder(sequences.swapaxes(0, 1))
    for i, (_, hidden) in enumerate(sizes):
      x = Cell(self.arch, hidden, name=f"layer_{i}")(x, train)
      rate = DROPOUT["output" if i == self.cells - 1 else "hidden"]
      x = nn.Dropout(rate, broadcast_dims=(0,), deterministic=not train)(x)
    x = nn.Dense(self.classes, precision=_HIGHEST, kernel_init=_uniform(0.1), name="decoder")(x)
    return x.swapaxes(0, 1).reshape(len(sequences), -1)


def _elementwise(op: int, read: list[Float[Array, "N H"]]) -> Float[Array, "N H"]:
  if op == BLEND:
    a, b, c = read
    return a * b + (1 - a) * c
  if op in (PROD, SUM):
    return read[0] * read[1] if op == PROD else read[0] + read[1]
  return {TANH: jnp.tanh, SIGM: nn.sigmoid, LEAKY_RELU: nn.leaky_relu}[op](read[0])
