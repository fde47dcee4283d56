"""The neural tangent kernel of a Transformer block on tokens, layer by layer without a parameter Jacobian.

python experiments/examples/ntk_transformer.py
"""

import flax.linen as nn
import jax

from jaxnas import ntk

VOCABULARY, LENGTH, WIDTH = 50, 12, 32


class Block(nn.Module):
  """Tokens [N, T] -> logits of the next token [N, T, V]."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(VOCABULARY, WIDTH)(tokens)
    x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
    x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
    return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def main() -> None:
  model, (weights, data) = Block(), jax.random.split(jax.random.key(0))
  tokens = jax.random.randint(data, (6, LENGTH), 0, VOCABULARY)
  params = jax.jit(model.init)(weights, tokens)

  def last_logits(params, tokens):
    return model.apply(params, tokens)[:, -1, :16]  # of sixteen words

  kernel_fn = ntk.empirical_ntk_fn(last_logits, vmap_axes=0)
  theta = jax.jit(kernel_fn)(tokens, None, params)
  print(f"last position: kernel {theta.shape}, condition number {ntk.condition_number(theta).value:.4g}")
  print(ntk.empirical_ntk_fn(last_logits, vmap_axes=0, explain=True)(tokens, None, params))

  def some_logits(params, tokens):
    return model.apply(params, tokens)[..., :4]

  positions = ntk.empirical_ntk_fn(some_logits, trace_axes=(-1,), diagonal_axes=(0,), vmap_axes=0)
  theta = jax.jit(positions)(tokens, None, params)  # [N, T, T]: how the positions of one sequence move each other
  print(f"positions: kernel {theta.shape}")


if __name__ == "__main__":
  main()
