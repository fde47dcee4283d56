"""The published procedure for TE-NAS's NTK condition number, in PyTorch: the baseline to beat.

One forward pass in train mode, one backward pass per sample through the whole batch; the gradients
of parameters whose name contains "weight" are the rows. Operations that weigh at most 0.01 are not
executed. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.1, and the released code, but for one
thing that favours this side: the mixing weights are constants and get no gradient.

Needs only torch and numpy: python pytorch_loop.py EXCHANGE.npz RESULT.json KERNELS
"""

import json
import pathlib
import resource
import sys
import time
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source), the rows of a mask


def conv_bn(size, channels_in, channels_out, stride=1):
  conv = nn.Conv2d(channels_in, channels_out, size, stride, (size - 1) // 2, bias=False)
  return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out)))


class Cell(nn.Module):
  def __init__(self, c):
    super().__init__()
    for target, source in EDGES:
      convs = {f"nor_conv_{k}x{k}": conv_bn(k, c, c) for k in (1, 3)}
      self.add_module(f"edge{target}_{source}", nn.ModuleDict(convs))

  def forward(self, x, weights):
    nodes = [x, 0, 0, 0]
    for (target, source), convs, row in zip(EDGES, self.children(), weights, strict=True):
      operations = (
        torch.zeros_like,
        lambda v: v,
        lambda v, convs=convs: convs["nor_conv_1x1"](relu(v)),
        lambda v, convs=convs: convs["nor_conv_3x3"](relu(v)),
        lambda v: avg_pool2d(v, 3, 1, 1, count_include_pad=False),
      )
      for weight, operation in zip(row.tolist(), operations, strict=True):
        if weight > 0.01:
          nodes[target] = nodes[target] + weight * operation(nodes[source])
    return nodes[-1]


class ReductionBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.conv_a, self.conv_b = conv_bn(3, c, 2 * c, stride=2), conv_bn(3, 2 * c, 2 * c)
    self.downsample = nn.ModuleDict({"conv": nn.Conv2d(c, 2 * c, 1, bias=False)})

  def forward(self, x, weights):
    return self.downsample["conv"](avg_pool2d(x, 2)) + self.conv_b(relu(self.conv_a(relu(x))))


class Network(nn.Module):
  """The supernet with one cell a stage; modules have jaxnas's names."""

  def __init__(self, c, classes):
    super().__init__()
    self.stem = conv_bn(3, 3, c)
    blocks = Cell(c), ReductionBlock(c), Cell(2 * c), ReductionBlock(2 * c), Cell(4 * c)
    self.cells = nn.ModuleList(blocks)
    self.last = nn.ModuleDict({"bn": nn.BatchNorm2d(4 * c)})
    self.classifier = nn.Linear(4 * c, classes)

  def forward(self, images, alphas):
    x, weights = self.stem(images), alphas.softmax(-1)
    for cell in self.cells:
      x = cell(x, weights)
    return self.classifier(relu(self.last["bn"](x)).mean((2, 3)))


def load(exchange):
  """The network with the arrays `params/...` (HWIO kernels) as its parameters, and no others."""
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
  """lambda_max / lambda_min of the products of the gradients of the samples' summed logits."""
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
  for i in [0] * kernels + list(range(len(exchange["masks"]))):
    alphas = torch.where(torch.from_numpy(exchange["masks"][i, 0]), 0.0, -1000.0)
    cpu, wall = time.process_time(), time.perf_counter()
    kappa = condition_number(network, images, alphas)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    calls.append({"kappa": kappa, **spent})
  peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  found = {"calls": calls, "threads": torch.get_num_threads(), "peak_mb": peak_mb}
  pathlib.Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
