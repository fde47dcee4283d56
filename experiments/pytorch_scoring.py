"""Scores of single NAS-Bench-201 architectures in PyTorch, one network built after the other: the baselines to beat.

`functional` is the NTK condition number from per-sample gradients by `torch.func`, batch normalisation in eval mode;
`batch` the published one, see `pytorch_loop`; `one_pass` the squared norm of the gradient of the mean loss, which is
MGM and the trace norm. Every architecture takes its part of the same weights; building its network is timed too.
Needs only torch and numpy: python pytorch_scoring.py EXCHANGE.npz RESULT.json TASK ARCHITECTURES
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch
from pytorch_loop import EDGES, ReductionBlock, condition_number, conv_bn, parameters
from torch import nn

OPS = {
  "skip_connect": lambda c: nn.Identity(),
  "avg_pool_3x3": lambda c: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}
OPS |= {f"nor_conv_{k}x{k}": lambda c, k=k: conv_bn(k, c, c) for k in (1, 3)}


class Cell(nn.Module):
  """The operations of one architecture, an op name for every edge; "none" has no module."""

  def __init__(self, c, names):
    super().__init__()
    for edge, name in zip(EDGES, names, strict=True):
      if name != "none":
        self.add_module(f"edge{edge}", nn.ModuleDict({name: OPS[name](c)}))

  def forward(self, x):
    nodes = [x] + [torch.zeros_like(x)] * 3
    for edge, ops in self.named_children():
      target, source = map(int, edge.removeprefix("edge").split("_"))
      for op in ops.values():
        nodes[target] = nodes[target] + op(nodes[source])
    return nodes[-1]


class Network(nn.Module):
  """Modules have jaxnas's names."""

  def __init__(self, names, c, cells, classes):
    super().__init__()
    self.stem = conv_bn(3, 3, c, before=nn.Identity)
    self.cells = nn.ModuleList()
    for stage in range(3):
      self.cells += [ReductionBlock(c * 2 ** (stage - 1))] if stage else []
      self.cells += [Cell(c * 2**stage, names) for _ in range(cells)]
    self.last = nn.Sequential()
    self.last.add_module("bn", nn.BatchNorm2d(4 * c))
    self.last.add_module("relu", nn.ReLU())
    self.classifier = nn.Linear(4 * c, classes)

  def forward(self, images, weights=None):
    x = self.stem(images)
    for cell in self.cells:
      x = cell(x, weights) if isinstance(cell, ReductionBlock) else cell(x)
    return self.classifier(self.last(x).mean((2, 3)))


def build(names, state):
  """The network of one architecture with its part of the supernet's parameters, in train mode."""
  cells = sum(name.endswith("edge1_0.nor_conv_1x1.conv.weight") for name in state) // 3
  network = Network(names, len(state["stem.bn.weight"]), cells, len(state["classifier.bias"])).train()
  network.load_state_dict({n: state[n] for n, _ in network.named_parameters()}, strict=False)
  return network


def functional_condition_number(network, images):
  """lambda_max / lambda_min of the products of the samples' gradients, each sample on its own (eval mode)."""
  network.eval()
  weights = {name: p.detach() for name, p in network.named_parameters() if "weight" in name}

  def output(weights, image):
    return torch.func.functional_call(network, weights, (image[None],)).sum()

  rows = torch.func.vmap(torch.func.grad(output), (None, 0))(weights, images)
  gradients = torch.cat([g.flatten(1) for g in rows.values()], 1)
  eigenvalues = torch.linalg.eigvalsh(gradients @ gradients.T)
  return (eigenvalues[-1] / eigenvalues[0]).item()


def gradient_norm(network, images, labels):
  """Squared norm of the gradient of the batch's mean cross-entropy in all parameters."""
  nn.functional.cross_entropy(network(images), labels).backward()
  return sum(p.grad.square().sum() for p in network.parameters() if p.grad is not None).item()


def freeze_statistics(network, images):
  """Makes the statistics of this batch the running ones of all batch normalisations."""

  def freeze(bn, given):
    bn.running_mean, bn.running_var = given[0].mean((0, 2, 3)), given[0].var((0, 2, 3), unbiased=False)

  norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
  hooks = [m.register_forward_pre_hook(freeze) for m in norms]
  with torch.no_grad():
    network.eval()(images)
  for hook in hooks:
    hook.remove()


def score(task, names, state, images, labels):
  network = build(names, state)
  if task == "batch":
    return condition_number(network, images, None)
  if task == "one_pass":
    return gradient_norm(network, images, labels)
  if task == "frozen":  # what jaxnas calls batch_frozen: not timed, to compare values
    freeze_statistics(network, images)
  return functional_condition_number(network, images)


def main(exchange_path, result_path, tasks, count):
  """Scores the first `count` architectures by each task (comma-separated) and times every one, the first twice."""
  exchange, calls = dict(np.load(exchange_path)), []
  state = parameters(exchange)
  images = torch.from_numpy(exchange["images"].transpose(0, 3, 1, 2).copy())
  labels = torch.from_numpy(exchange["labels"]).long()
  archs = exchange["names"][:count].tolist()
  for task in tasks.split(","):
    for i, names in enumerate([archs[0], *archs]):  # the first time sets things up, and a few images are enough
      n = len(images) if i else min(4, len(images))
      cpu, wall = time.process_time(), time.perf_counter()
      value = score(task, names, state, images[:n], labels[:n])
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      calls.append({"task": task, "value": value, "cpu": cpu, "wall": wall, "setup": i == 0})
  found = {"calls": calls, "threads": torch.get_num_threads()}
  pathlib.Path(result_path).write_text(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:4], int(sys.argv[4]))
