"""Five models of one's own, linen, NNX and a plain function, ranked by zero-cost proxies without training any.

python experiments/examples/rank_models.py [--images=32 --side=16]
"""

import argparse

import jax
from flax import nnx
from measure_models import ResNet, ViT
from scipy.stats import rankdata

import jaxnas

PROXIES = ("naswot", "jacob_cov", "grad_norm", "snip", "synflow", "params", "flops")


class Plain(nnx.Module):
  """Convolutions without shortcuts."""

  def __init__(self, rngs: nnx.Rngs):
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
      layers += [nnx.Conv(before, after, (3, 3), 2, rngs=rngs), nnx.BatchNorm(after, rngs=rngs), nnx.relu]
    self.body, self.last = nnx.Sequential(*layers), nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x):
    return self.last(self.body(x).mean((1, 2)))


def perceptron(params, x):
  x = jax.nn.relu(x.reshape(len(x), -1) @ params["first"]["w"] + params["first"]["b"])
  return x @ params["last"]["w"] + params["last"]["b"]


def perceptron_params(key, inputs: int, width: int = 64):
  first, last = jax.random.split(key)
  he = jax.nn.initializers.he_normal()
  return {
    "first": {"w": he(first, (inputs, width)), "b": jax.numpy.zeros(width)},
    "last": {"w": he(last, (width, 10)), "b": jax.numpy.zeros(10)},
  }


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--images", type=int, default=32)
  parser.add_argument("--side", type=int, default=16)
  flags = parser.parse_args()
  images, labels, weights = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(images, (flags.images, flags.side, flags.side, 3))
  batch = x, jax.random.randint(labels, (len(x),), 0, 10)
  models = {
    "ResNet, 3 blocks": (ResNet(3), None),
    "ResNet, 1 block": (ResNet(1), None),
    "ViT, 3 blocks": (ViT(3), None),
    "plain CNN (NNX)": (Plain(nnx.Rngs(0)), None),
    "perceptron (function)": (perceptron, perceptron_params(weights, x[0].size)),
  }
  found = {
    name: jaxnas.measure(model, batch, PROXIES, jax.random.key(1), variables=variables, activations=("relu", "tanh"))
    for name, (model, variables) in models.items()
  }
  print(f"{'model':24}" + "".join(f"{proxy:>14}" for proxy in PROXIES) + f"{'mean rank':>12}")
  ranks = {p: rankdata([-one[p].rank_by for one in found.values()], nan_policy="omit") for p in PROXIES}
  means = {name: jax.numpy.nanmean(jax.numpy.array([ranks[p][i] for p in PROXIES])) for i, name in enumerate(found)}
  for name in sorted(found, key=lambda name: means[name]):
    cells = [f"{one.value:.4g}" if not one.why else "-" for one in found[name].values()]
    print(f"{name:24}" + "".join(f"{cell:>14}" for cell in cells) + f"{means[name]:12.2f}")
  for name, proxies in found.items():
    for one in proxies.values():
      if one.why:
        print(f"- {name}, {one.proxy}: {one.why}")


if __name__ == "__main__":
  main()
