"""A recurrent layer that runs any recipe's program: a loop over steps, in it a loop over instructions, each a switch.

Its pull-back is written out. In reverse order every instruction adds its part to the cotangents of the slots that it
read, and what all steps give a matrix is one product at the end:

    d W_m = sum over steps t of values[t, source_m]' d_values[t, reader_m]

Autodiff would keep a copy of all slots for every instruction and add matrices of zeros for every product.
"""

from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnas.nets.products import einsum, matmul
from jaxnas.spaces.nlp.encoding import BLEND, LEAKY_RELU, MAX_STATES, PROD, SIGM, SUM, TANH
from jaxnas.spaces.nlp.program import INSTRUCTIONS, PRODUCT, PROJECT, START, RecipeProgram

SLOPE: Final = 0.01  # of the leaky ReLU below 0
_STATES: Final = slice(1, 1 + MAX_STATES)  # slots of the previous states


class Weights(NamedTuple):
  """What a layer computes with.

  Attributes:
    kernels: matrices of what is not x, [M, H, H].
    biases: of the linear nodes, [L, H].
    projected: the input times each matrix of x, [T, P, N, H].
  """

  kernels: Float[Array, "M H H"]
  biases: Float[Array, "L H"]
  projected: Float[Array, "T P N H"]


@jax.custom_vjp
def run(weights: Weights, program: RecipeProgram) -> Float[Array, "T S N H"]:
  """The values of all slots at every step; the states before the first step are zeros."""
  nodes = len(program.instructions) - len(program.projections) - len(program.readers)
  slots = 1 + MAX_STATES + nodes
  _, samples, hidden = weights.projected.shape[1:]

  def step(states, projected):
    values = jnp.zeros((slots, samples, hidden), states.dtype).at[_STATES].set(states)

    def compute(i, values):
      operation, written, a, b, c, number = program.instructions[i]
      sources = values[written], values[a], values[b], values[c]
      return values.at[written].set(lax.switch(operation, _forward(weights, projected), *sources, number))

    values = lax.fori_loop(0, len(program.instructions), compute, values)
    return values[program.states], values

  states = jnp.zeros((MAX_STATES, samples, hidden), weights.projected.dtype)
  return lax.scan(step, states, weights.projected)[1]


def _forward(weights: Weights, projected: Float[Array, "P N H"]):
  """What each operation writes, of (what is written already, three sources, number of the parameter)."""

  def linear(so_far, a, b, c, number):
    return so_far + matmul(a, weights.kernels[number])

  branches = [lambda so_far, a, b, c, number: jnp.zeros_like(a)] * INSTRUCTIONS
  branches[START] = lambda so_far, a, b, c, number: so_far + weights.biases[number][None]
  branches[PROJECT] = lambda so_far, a, b, c, number: so_far + projected[number]
  branches[PRODUCT] = linear
  branches[BLEND] = lambda so_far, a, b, c, number: a * b + (1 - a) * c
  branches[PROD] = lambda so_far, a, b, c, number: a * b
  branches[SUM] = lambda so_far, a, b, c, number: a + b
  branches[TANH] = lambda so_far, a, b, c, number: jnp.tanh(a)
  branches[SIGM] = lambda so_far, a, b, c, number: jax.nn.sigmoid(a)
  branches[LEAKY_RELU] = lambda so_far, a, b, c, number: jnp.where(a > 0, a, SLOPE * a)
  return branches


def _run_fwd(weights: Weights, program: RecipeProgram):
  values = run(weights, program)
  return values, (weights, program, values)


def _run_bwd(saved, d_values: Float[Array, "T S N H"]):
  weights, program, values = saved

  def step(d_states, given):
    values, d_values = given
    d_values = d_values.at[program.states].add(d_states)

    def pull(i, d_values):
      operation, written, a, b, c, number = program.instructions[len(program.instructions) - 1 - i]
      sources = values[written], values[a], values[b], values[c]
      parts = lax.switch(operation, _backward(weights), *sources, d_values[written], number)
      for slot, part in zip((a, b, c), parts, strict=True):
        d_values = d_values.at[slot].add(part)
      return d_values

    d_values = lax.fori_loop(0, len(program.instructions), pull, d_values)
    return d_values[_STATES], d_values

  _, pulled = lax.scan(step, jnp.zeros_like(values[0, _STATES]), (values, d_values), reverse=True)

  def of(slots):
    """The cotangents of these slots, zeros for those that there are not, [T, slots, N, H]."""
    return jnp.where((slots > 0)[None, :, None, None], pulled[:, slots], jnp.zeros((), pulled.dtype))

  kernels = einsum("tmni,tmnj->mij", values[:, program.sources], of(program.readers))
  d_weights = Weights(kernels, of(program.linears).sum((0, 2)), of(program.projections))
  return d_weights, jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), program)


def _backward(weights: Weights):
  """The cotangents of three sources, of (value written, the sources, its cotangent, number of the parameter)."""

  def none(y, a, b, c, dy, number):
    zeros = jnp.zeros_like(dy)
    return zeros, zeros, zeros

  def of(fn):
    """Of an operation that reads one source."""
    return lambda y, a, b, c, dy, number: (fn(y, a, dy, number), jnp.zeros_like(dy), jnp.zeros_like(dy))

  branches = [none] * INSTRUCTIONS
  branches[PRODUCT] = of(lambda y, a, dy, number: matmul(dy, weights.kernels[number].T))
  branches[BLEND] = lambda y, a, b, c, dy, number: (dy * (b - c), dy * a, dy * (1 - a))
  branches[PROD] = lambda y, a, b, c, dy, number: (dy * b, dy * a, jnp.zeros_like(dy))
  branches[SUM] = lambda y, a, b, c, dy, number: (dy, dy, jnp.zeros_like(dy))
  branches[TANH] = of(lambda y, a, dy, number: dy * (1 - y * y))
  branches[SIGM] = of(lambda y, a, dy, number: dy * y * (1 - y))
  branches[LEAKY_RELU] = of(lambda y, a, dy, number: jnp.where(a > 0, dy, SLOPE * dy))
  return branches


run.defvjp(_run_fwd, _run_bwd)
