"""The published procedure for TE-NAS's NTK condition number, in PyTorch: the baseline to beat.

One forward pass in train mode, one backward pass per sample through the whole batch, the gradients
of "weight" parameters as rows. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.1, and the released
code, but for one thing that favours this side: the mixing weights are constants, without gradient.
Needs only torch and numpy: python pytorch_loop.py EXCHANGE.npz RESULT.json KERNELS
"""

import json
import pathlib
import sys
import time
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

EDGES = ("1_0", "2_0", "2_1", "3_0", "3_1", "3_2")  # target, source: the rows of a mask


def conv_bn(size, channels_in, channels_out, stride=1, before=nn.ReLU):
  conv = nn.Conv2d(channels_in, channels_out, size, stride, (size - 1) // 2, bias=False)
  return nn.Sequential(OrderedDict(relu=before(), conv=conv, bn=nn.BatchNorm2d(channels_out)))


class Cell(nn.Module):
  def __init__(self, c):
    super().__init__()
    for edge in EDGES:
      ops = {"skip": nn.Identity(), "nor_conv_1x1": conv_bn(1, c, c), "nor_conv_3x3": conv_bn(3, c, c)}
      ops["pool"] = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
      self.add_module(f"edge{edge}", nn.ModuleDict(ops))

  def forward(self, x, weights):
    nodes = [x, 0, 0, 0]
    for edge, ops, row in zip(EDGES, self.children(), weights[:, 1:].tolist(), strict=True):
      target, source = map(int, edge.split("_"))
      for weight, op in zip(row, ops.values(), strict=True):
        if weight > 0.01:
          nodes[target] = nodes[target] + weight * op(nodes[source])
    return nodes[-1]


class ReductionBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.conv_a, self.conv_b = conv_bn(3, c, 2 * c, stride=2), conv_bn(3, 2 * c, 2 * c)
    conv = nn.Conv2d(c, 2 * c, 1, bias=False)
    self.downsample = nn.Sequential(OrderedDict(pool=nn.AvgPool2d(2), conv=conv))

  def forward(self, x, weights):
    return self.downsample(x) + self.conv_b(self.conv_a(x))


class Network(nn.Module):
  """The supernet with one cell a stage; modules have jaxnas's names."""

  def __init__(self, c, classes):
    super().__init__()
    self.stem = conv_bn(3, 3, c, before=nn.Identity)
    blocks = Cell(c), ReductionBlock(c), Cell(2 * c), ReductionBlock(2 * c), Cell(4 * c)
    self.cells = nn.ModuleList(blocks)
    self.last = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(4 * c), relu=nn.ReLU()))
    self.classifier = nn.Linear(4 * c, classes)

  def forward(self, images, alphas):
    x, weights = self.stem(images), alphas.softmax(-1)
    for cell in self.cells:
      x = cell(x, weights)
    return self.classifier(self.last(x).mean((2, 3)))


def parameters(exchange):
  """The arrays `params/...` (HWIO kernels) by PyTorch's names and in its layout."""
  state = {}
  for path in (p for p in exchange if p.startswith("params/")):
    *modules, leaf = path.removeprefix("params/").replace("cells_", "cells/").split("/")
    value = exchange[path].transpose((3, 2, 0, 1) if exchange[path].ndim == 4 else None).copy()
    state[".".join([*modules, "bias" if leaf == "bias" else "weight"])] = torch.from_numpy(value)
  return state


def load(exchange):
  """The network with the arrays `params/...` as its parameters, and no others."""
  state = parameters(exchange)
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
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    calls.append({"kappa": kappa, "cpu": cpu, "wall": wall})
  found = {"calls": calls, "threads": torch.get_num_threads()}
  pathlib.Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
