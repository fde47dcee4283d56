"""A ResNet and a Vision Transformer of one's own, each written in ten lines, and what every zero-cost proxy says.

python experiments/examples/measure_models.py
"""

import flax.linen as nn
import jax

import jaxnas


class ResNet(nn.Module):
  depth: int = 3
  width: int = 16

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Conv(self.width, (3, 3))(x)
    for i in range(self.depth):
      stride, width = 1 + (i > 0), self.width * 2**i
      y = nn.Conv(width, (3, 3), stride)(nn.relu(nn.BatchNorm(not train)(x)))
      y = nn.Conv(width, (3, 3))(nn.relu(nn.BatchNorm(not train)(y)))
      x = y + (x if i == 0 else nn.Conv(width, (1, 1), stride)(x))
    return nn.Dense(10)(nn.relu(nn.BatchNorm(not train)(x)).mean((1, 2)))


class ViT(nn.Module):
  depth: int = 3
  width: int = 48

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(self.width, (4, 4), 4)(images).reshape(len(images), -1, self.width)
    x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
    for _ in range(self.depth):
      x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
      x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
    return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def main() -> None:
  images, labels = jax.random.split(jax.random.key(0))
  batch = jax.random.normal(images, (16, 16, 16, 3)), jax.random.randint(labels, (16,), 0, 10)
  for model in (ResNet(), ViT()):
    print(type(model).__name__)
    found = jaxnas.measure(model, batch, key=jax.random.key(1), activations=("relu", "tanh"))  # gelu has a tanh
    for name, one in found.items():
      print(f"  {name:28} {one.why or f'{one.value:12.5g}  {one.status}  ({one.note})'}")


if __name__ == "__main__":
  main()
