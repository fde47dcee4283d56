"""Empirical kernels by `torch.func`, the baselines of `benchmark_ntk.py`: its networks and weights, three recipes.

`jacobian`: the contraction of `vmap(jacrev)`; `products`: for every pair of samples products of the kernel with unit
vectors; both as in PyTorch's tutorial "Neural Tangent Kernels". `by_class`: per-sample gradients of one class after the
other, for a trace. Needs only torch and numpy. It waits for lines on its input and runs each once:

  python pytorch_ntk.py EXCHANGE.npz NETWORK RESULT.npy      then lines such as "jacobian trace"
"""

import sys
import time

import numpy as np
import torch
from torch.func import jacrev, jvp, vjp, vmap
from torch.nn import functional as F

CLASSES, HEADS = 10, 4


def dense(p, name, x):
  return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def mlp(p, x):
  for i in range(3):
    x = dense(p, i, x).relu()
  return dense(p, "last", x)


def conv(p, name, x, stride=1):
  kernel = p[f"{name}/kernel"]
  return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)


def cnn(p, x):
  for i in range(4):
    x = (conv(p, i, x) + p[f"{i}/bias"][None, :, None, None]).relu()
  return dense(p, "last", x.mean((2, 3)))


def layer_norm(p, name, x):
  return F.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/bias"])


def transformer(p, x):
  n, t, d = x.shape
  h = layer_norm(p, "norm0", x)
  q, k, v = ((h @ p[f"{name}/kernel"]).reshape(n, t, HEADS, d // HEADS) for name in "qkv")
  weights = (torch.einsum("nthe,nuhe->nhtu", q, k) / (d // HEADS) ** 0.5).softmax(-1)
  x = x + torch.einsum("nhtu,nuhe->nthe", weights, v).reshape(n, t, d) @ p["o/kernel"]
  x = x + dense(p, "down", dense(p, "up", layer_norm(p, "norm1", x)).relu())
  return dense(p, "last", x.mean(1))


def group_norm(p, name, x):
  return F.group_norm(x, min(32, x.shape[1] // 2), p[f"{name}/scale"], p[f"{name}/bias"])


def resnet18(p, x):
  x = group_norm(p, "stem", conv(p, "stem", x)).relu()
  for block in range(8):
    stride = 2 if block in (2, 4, 6) else 1
    h = group_norm(p, f"{block}a", conv(p, f"{block}a", x, stride)).relu()
    h = group_norm(p, f"{block}b", conv(p, f"{block}b", h))
    x = group_norm(p, f"{block}c", conv(p, f"{block}c", x, stride)) if stride > 1 else x
    x = (x + h).relu()
  return dense(p, "last", x.mean((2, 3)))


def jacobian(f, params, x, trace):
  rows = [j.flatten(2) for j in vmap(jacrev(f), (None, 0))(params, x).values()]  # [N, K, P]
  equation = "nkp,mkp->nm" if trace else "nkp,mlp->nmkl"
  return sum(torch.einsum(equation, j, j) for j in rows)


def products(f, params, x, trace):
  """Samples of the rows one after the other: all at once would hold N N K passes."""

  def pair(one, other):
    out, pullback = vjp(lambda p: f(p, one), params)
    return vmap(lambda unit: jvp(lambda p: f(p, other), (params,), pullback(unit))[1])(torch.eye(len(out)))

  kernel = torch.stack([vmap(pair, (None, 0))(one, x) for one in x])
  return torch.einsum("nmkk->nm", kernel) if trace else kernel


def by_class(f, params, x, trace):
  assert trace

  def row(k):
    return vmap(lambda one: vjp(lambda p: f(p, one)[k], params)[1](torch.ones(()))[0])(x)

  classes = f(params, x[0]).shape[-1]
  return sum(g.flatten(1) @ g.flatten(1).T for k in range(classes) for g in row(k).values())


def main(exchange_path, network, result_path):
  exchange = dict(np.load(exchange_path))
  images = exchange.pop("x")
  x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy() if images.ndim == 4 else images)
  params = {n: torch.from_numpy(a.transpose(3, 2, 0, 1).copy() if a.ndim == 4 else a) for n, a in exchange.items()}

  def f(p, one):
    return globals()[network](p, one[None])[0]

  for line in sys.stdin:
    recipe, form = line.split()
    wall, cpu = time.perf_counter(), time.process_time()
    kernel = globals()[recipe](f, params, x, form == "trace")
    kernel = kernel / CLASSES if form == "trace" else kernel  # the mean, as jaxnas and neural_tangents have it
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    np.save(result_path, kernel.detach().numpy())
    print(cpu, wall, flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
