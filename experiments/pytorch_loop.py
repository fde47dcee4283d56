"""The published procedure for TE-NAS's NTK condition number, in PyTorch: the baseline of benchmark_tenas.py.

One forward pass of the batch in train mode, one backward pass per sample through the whole batch, the gradients of
all parameters whose name contains "weight" as rows, and the eigenvalues of their products. Operations whose mixing
weight is at most 0.01 are not executed. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.1, and its released code,
but for one thing that favours this side: the mixing weights are constants and get no gradient.

Needs only torch and numpy, to run in an environment of its own: python pytorch_loop.py EXCHANGE.npz RESULT.json KERNELS
"""

import json
import resource
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source), the rows of a mask


class ConvBN(nn.Module):
  def __init__(self, size, channels_in, channels_out, stride=1):
    super().__init__()
    self.conv = nn.Conv2d(channels_in, channels_out, size, stride, (size - 1) // 2, bias=False)
    self.bn = nn.BatchNorm2d(channels_out)

  def forward(self, x):
    return self.bn(self.conv(x))


class Cell(nn.Module):
  def __init__(self, c):
    super().__init__()
    for target, source in EDGES:
      convs = {f"nor_conv_{k}x{k}": ConvBN(k, c, c) for k in (1, 3)}
      self.add_module(f"edge{target}_{source}", nn.ModuleDict(convs))

  def forward(self, x, weights):
    nodes = [x, 0, 0, 0]
    for (target, source), convs, row in zip(EDGES, self.children(), weights, strict=True):
      for weight, operation in zip(row.tolist(), operations(convs), strict=True):
        if weight > 0.01:
          nodes[target] = nodes[target] + weight * operation(nodes[source])
    return nodes[-1]


def operations(convs):
  """In the order of a mask's columns: none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3."""
  yield torch.zeros_like
  yield lambda x: x
  yield lambda x: convs["nor_conv_1x1"](functional.relu(x))
  yield lambda x: convs["nor_conv_3x3"](functional.relu(x))
  yield lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class ReductionBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.conv_a, self.conv_b = ConvBN(3, c, 2 * c, stride=2), ConvBN(3, 2 * c, 2 * c)
    self.downsample = nn.ModuleDict({"conv": nn.Conv2d(c, 2 * c, 1, bias=False)})

  def forward(self, x, weights):
    shortcut = self.downsample["conv"](functional.avg_pool2d(x, 2))
    return shortcut + self.conv_b(functional.relu(self.conv_a(functional.relu(x))))


class Network(nn.Module):
  """The supernet with one cell a stage; modules have jaxnas's names."""

  def __init__(self, c, classes):
    super().__init__()
    self.stem = ConvBN(3, 3, c)
    blocks = (Cell(c), ReductionBlock(c), Cell(2 * c), ReductionBlock(2 * c), Cell(4 * c))
    self.cells = nn.ModuleList(blocks)
    self.last = nn.ModuleDict({"bn": nn.BatchNorm2d(4 * c)})
    self.classifier = nn.Linear(4 * c, classes)

  def forward(self, images, alphas):
    x, weights = self.stem(images), functional.softmax(alphas, -1)
    for cell in self.cells:
      x = cell(x, weights)
    return self.classifier(functional.relu(self.last["bn"](x)).mean((2, 3)))


def load(exchange):
  """The network with the arrays `params/...` (HWIO kernels) as its parameters: all of them, and no other."""
  state = {}
  for path in (p for p in exchange if p.startswith("params/")):
    *modules, leaf = path.removeprefix("params/").replace("cells_", "cells/").split("/")
    value = exchange[path].transpose((3, 2, 0, 1) if exchange[path].ndim == 4 else None).copy()
    state[".".join([*modules, "bias" if leaf == "bias" else "weight"])] = torch.from_numpy(value)
  network = Network(len(state["stem.bn.weight"]), len(state["classifier.bias"])).train()
  assert state.keys() == dict(network.named_parameters()).keys()
  network.load_state_dict(state, strict=False)  # running statistics are not used in train mode
  return network


def condition_number(network, images, alphas):
  """lambda_max / lambda_min of the Gram matrix of the gradients of every sample's summed logits."""
  logits, rows = network(images, alphas), []
  for i in range(len(images)):
    network.zero_grad()
    logits[i].sum().backward(retain_graph=True)
    grads = [p.grad for name, p in network.named_parameters() if "weight" in name]
    rows.append(torch.cat([g.flatten() for g in grads if g is not None]))
  gradients = torch.stack(rows)
  eigenvalues = torch.linalg.eigvalsh(gradients @ gradients.T)
  return (eigenvalues[-1] / eigenvalues[0]).item()


def main(exchange_path, result_path, kernels):
  """Times the first supernet 1 + `kernels` times and the others once."""
  exchange, calls = dict(np.load(exchange_path)), []
  network = load(exchange)
  images = torch.from_numpy(exchange["images"].transpose(0, 3, 1, 2).copy())
  for index in [0] * (1 + kernels) + list(range(1, len(exchange["masks"]))):
    alphas = torch.where(torch.from_numpy(exchange["masks"][index, 0]), 0.0, -1000.0)
    cpu, wall = time.process_time(), time.perf_counter()
    kappa = condition_number(network, images, alphas)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    calls.append({"supernet": index, "kappa": kappa, "cpu": cpu, "wall": wall})
  peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  with open(result_path, "w") as file:
    json.dump({"calls": calls, "threads": torch.get_num_threads(), "peak_mb": peak_mb}, file)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
