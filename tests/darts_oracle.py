"""The network of one DARTS genotype in NumPy, a plain loop over cells: slow, obvious, and good for complex steps.

Written without the package's layers. Maps are [N, C, H, W]. Every convolution reads a layer {"kernel"[, "gate"]}.
"""

import numpy as np

from jaxnas.spaces.darts.encoding import OPS, slots


class Oracle:
  """One pass; keeps what ReLUs read, the variances at BN, and the outputs of all cells."""

  def __init__(self, params, images, arch, config, drop=None):
    self.reads, self.variances, self.cells = [], [], []
    x, stem = images.transpose(0, 3, 1, 2), params["stem"]
    if config.stem == "cifar":
      s0 = s1 = self.norm(conv(x, stem["conv"], 1), stem["bn"])
    else:
      half = self.norm(conv(x, stem["a"]["conv"], 2), stem["a"]["bn"])
      s0 = self.norm(conv(self.relu(half), stem["b"]["conv"], 2), stem["b"]["bn"])
      s1 = self.norm(conv(self.relu(s0), stem["c"]["conv"], 2), stem["c"]["bn"])
    for i in range(config.cells):
      cell_type = int(i in (config.cells // 3, 2 * config.cells // 3))
      masks = None if drop is None else drop[i]
      y = self.cell(s0, s1, cell_params(params, config.cells, i), slots(arch)[cell_type].tolist(), cell_type, masks)
      s0, s1 = s1, y
      self.cells.append(y)
    self.logits = s1.mean((2, 3)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]

  def cell(self, s0, s1, own, nodes, cell_type, masks):
    halve = s0.shape[2] != s1.shape[2]
    states = [
      (self.factorised if halve else self.relu_conv_bn)(s0, own["input_0"]),
      self.relu_conv_bn(s1, own["input_1"]),
    ]
    for node, pairs in enumerate(nodes):
      total = 0
      for j, (op, source) in enumerate(pairs):
        stride = 2 if cell_type and source < 2 else 1
        y = self.operation(OPS[op], states[source], own[f"node{node + 2}_input{j}"].get(OPS[op]), stride)
        if masks is not None and not (OPS[op] == "skip_connect" and stride == 1):
          y = y * masks[2 * node + j][:, None, None, None]
        total = total + y
      states.append(total)
    return np.concatenate(states[2:], 1)

  def operation(self, op, x, own, stride):
    if op == "skip_connect":
      return x if stride == 1 else self.factorised(x, own)
    if op == "max_pool_3x3":
      window = np.stack(taps(x, 3, stride, 1, -np.inf))
      return np.take_along_axis(window, window.real.argmax(0)[None], 0)[0]
    if op == "avg_pool_3x3":
      return sum(taps(x, 3, stride, 1)) / sum(taps(np.ones_like(x), 3, stride, 1))
    if op.startswith("dil"):
      return self.separable(x, own, stride, 2)
    return self.separable(self.separable(x, own["a"], stride, 1), own["b"], 1, 1)

  def separable(self, x, own, stride, dilation):
    x = self.relu(x)
    kernel = own["dw"]["kernel"][:, :, 0]
    window = taps(x, len(kernel), stride, dilation)
    flat = kernel.reshape(-1, kernel.shape[-1])
    wide = sum(t * w[None, :, None, None] for t, w in zip(window, flat, strict=True))
    return self.norm(conv(gated(wide, own["dw"]), own["pw"], 1), own["bn"])

  def relu_conv_bn(self, x, own):
    return self.norm(conv(self.relu(x), own["conv"], 1), own["bn"])

  def factorised(self, x, own):
    x = self.relu(x)
    y = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
    shifted = y[:, :, 1:, 1:]
    return self.norm(np.concatenate([conv(x, own["conv0"], 2), conv(shifted, own["conv1"], 2)], 1), own["bn"])

  def relu(self, x):
    self.reads.append(x)
    return np.where(x.real > 0, x, 0)

  def norm(self, z, bn):
    mean = z.mean((0, 2, 3), keepdims=True)
    variance = ((z - mean) ** 2).mean((0, 2, 3), keepdims=True)
    self.variances.append(variance.ravel())
    scale, bias = (bn[k][None, :, None, None] for k in ("scale", "bias"))
    return (z - mean) / np.sqrt(variance + 1e-5) * scale + bias


def taps(x, size, stride, dilation, fill=0.0):
  pad = dilation * (size - 1) // 2
  height, width = x.shape[2:]
  framed = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
  return [
    framed[:, :, i * dilation : i * dilation + height : stride, j * dilation : j * dilation + width : stride]
    for i in range(size)
    for j in range(size)
  ]


def conv(x, layer, stride):
  kernel = layer["kernel"]
  window = taps(x, len(kernel), stride, 1)
  flat = kernel.reshape(-1, *kernel.shape[2:])
  return gated(sum(np.einsum("nchw,cd->ndhw", t, w) for t, w in zip(window, flat, strict=True)), layer)


def gated(z, layer):
  return z * layer["gate"][:, :, None, None] if "gate" in layer else z


def cell_params(params, cells, i):
  """Of cell i in the order of the network, from the groups that it is stored in."""
  reductions = sorted({cells // 3, 2 * cells // 3})
  before = [r for r in reductions if r < i]
  if i in reductions:
    return params[f"reduce_{len(before) + 1}"]
  stage, place = params[f"stage_{len(before)}"], i - (before[-1] + 1 if before else 0)
  own = {name: _at(tree, place) for name, tree in stage.items() if name.startswith("node")}
  for name in ("input_0", "input_1"):
    first = max(int(k[5:]) for k in stage[name] if k != "bn" and int(k[5:]) <= i)
    own[name] = {**_at(stage[name][f"cell_{first}"], i - first), "bn": _at(stage[name]["bn"], place)}
  return own


def _at(tree, i):
  return {k: _at(v, i) for k, v in tree.items()} if isinstance(tree, dict) else tree[i]
