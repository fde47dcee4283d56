"""A network of a few layers that keeps the contract of proxies, written without the package's own layers.

Stem conv-BN; two stacked cells with one edge, an operation of which is chosen by `arch` [1, 1, 2] (skip, or
ReLU-conv-BN); last BN-ReLU, global pooling, classifier.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Costs, Observation, Output
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation

SKIP = np.asarray([[[1, 0]]], np.float32)
CONV = np.asarray([[[0, 1]]], np.float32)
SIZE = {"kernel": 0.4, "scale": 0.2, "bias": 0.1}


def convolve(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def least_correlation(z):
  """The smallest eigenvalue of the channels' correlations, 0 for those that are constant."""
  rows = z.reshape(-1, z.shape[-1]).T
  return jnp.linalg.eigvalsh(jnp.where(jnp.cov(rows) == 0, 0, jnp.corrcoef(rows)))[0]


def agreement(x):
  code = (x > 0).reshape(len(x), -1).astype(x.dtype)
  return code @ code.T + (1 - code) @ (1 - code).T


@dataclasses.dataclass(frozen=True)
class Tiny:
  channels: int = 4
  cells: int = 2
  classes: int = 3
  rows_on_cpu: ClassVar[int] = 4

  def encode(self, codes):
    return np.eye(2, dtype=np.float32)[codes][:, :, None].swapaxes(1, 2)

  def init(self, key=None, dtype=np.float32, *, seed=0, plain=False):
    """Random values that do not depend on the key, or (`plain`) BN scales of 1 and biases of 0."""
    c, rng = self.channels, np.random.default_rng(seed)

    def draw(name, *shape):
      offset = float(name == "scale")
      return jnp.asarray(offset + (0 if plain and name != "kernel" else SIZE[name]) * rng.normal(size=shape), dtype)

    def conv_bn(width, *lead):
      bn = {name: draw(name, *lead, c) for name in ("scale", "bias")}
      return {"conv": {"kernel": draw("kernel", *lead, 3, 3, width, c)}, "bn": bn}

    return {
      "stem": conv_bn(3),
      "stage_0": {"edge1_0": {"nor_conv_3x3": conv_bn(c, self.cells)}},
      "last": {"bn": {name: draw(name, c) for name in ("scale", "bias")}},
      "classifier": {"kernel": draw("kernel", c, self.classes), "bias": draw("bias", self.classes)},
    }

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def forward(self, params, images, arch, mode="batch", stats=None, gates=None, bumps=None, shifts=None):
    """(logits, record): record has, by layer, `z` (outputs of convolutions), `moments`, `relu` and `features`.

    Its `cells` are the outputs of the stem and the cells, its `normal` what batch normalisations return.
    """
    record = {"z": {}, "moments": {}, "relu": {}, "normal": {}, "cells": []}

    def link(x):
      shift = None if shifts is None else shifts[len(record["cells"])]
      record["cells"].append(x)
      return x if shift is None else jax.lax.stop_gradient(x) + shift

    def bn(name, z, p):
      if mode == "identity":
        mean, var = jnp.zeros_like(p["bias"]), jnp.ones_like(p["bias"])
      elif mode == "running":
        mean, var = stats[name]
      else:
        mean, var = z.mean((0, 1, 2)), z.var((0, 1, 2))
      if mode == "batch_frozen":
        mean, var = jax.lax.stop_gradient((mean, var))
      record["moments"][name] = (mean, var)
      y = (z - mean[None, None, None]) / jnp.sqrt(var + jnp.asarray(1e-5, z.dtype))[None, None, None]
      record["normal"][name] = y * p["scale"][None, None, None] + p["bias"][None, None, None]
      return record["normal"][name]

    def conv_bn(name, x, p, gate):
      z = convolve(x, p["conv"]["kernel"])
      z = z if gate is None else z * gate[:, None, None]
      z = z if bumps is None else z + bumps[name]
      record["z"][name] = z
      return bn(name, z, p["bn"])

    x = link(conv_bn("stem", images, params["stem"], None if gates is None else gates["stem"]))
    for i in range(self.cells):
      own = jax.tree.map(lambda leaf, i=i: leaf[i], params["stage_0"]["edge1_0"]["nor_conv_3x3"])
      record["relu"][f"cell{i}"] = x
      y = conv_bn(f"cell{i}", jax.nn.relu(x), own, None if gates is None else gates["stage_0"]["edge1_0"][i])
      x = link(jnp.where(arch[0, 0, 1] > 0, y, x))
    x = bn("last", x, params["last"]["bn"])
    record["relu"]["last"] = x
    record["features"] = jax.nn.relu(x)
    head = params["classifier"]
    return record["features"].mean((1, 2)) @ head["kernel"] + head["bias"][None], record

  def apply(self, params, inputs, arch, mode="batch", *, stats=None, gates=None, collect=(), rows=False):
    if mode == "running" and stats is None:
      raise ConfigError("mode='running' needs stats")
    logits, record = self.forward(params, inputs, arch, mode, stats, gates)
    output = Output(logits)
    if "stats" in collect:
      output = output._replace(stats=record["moments"])
    conv = arch.astype(inputs.dtype)[0, 0, 1]
    if "observation" in collect:
      output = output._replace(observation=self.observation(record, conv))
    if "patterns" in collect:
      signs = [(x > 0) & ((conv > 0) | (name == "last")) for name, x in record["relu"].items()]
      output = output._replace(patterns=jnp.concatenate([s.reshape(len(s), -1) for s in signs], 1))
    if "correlation" in collect:
      least = {name: least_correlation(y) for name, y in record["normal"].items()}
      total = sum(value * (conv if name.startswith("cell") else 1) for name, value in least.items())
      output = output._replace(correlation=total)
    return output

  def cell_outputs(self, params, inputs, arch, mode="batch", shifts=None):
    own = None if shifts is None else [shift for group in shifts for shift in group]
    stem, *cells = self.forward(params, inputs, arch, mode, shifts=own)[1]["cells"]
    return stem[None], jnp.stack(cells)

  def effective_costs(self, arch, image_size=32):
    return self.costs(arch, image_size)

  def skip_length(self, arch):
    """As if an edge went by two nodes."""
    return 2 * arch[0, 0, 0]

  def observation(self, record, conv):
    """See `base.Observation`; `conv` is 1 where the cells have a convolution."""
    on = {name: conv if name.startswith("cell") else jnp.ones((), conv.dtype) for name in record["moments"]}
    agree = sum(on[name] * agreement(x) for name, x in record["relu"].items())
    deviation = sum(on[name] * 0.5 * jnp.log(var.mean()) for name, (_, var) in record["moments"].items())
    return Observation(record["features"], agree, deviation)

  def gates(self, samples):
    shape = (samples, self.channels)
    return {"stem": jnp.ones(shape), "stage_0": {"edge1_0": jnp.ones((self.cells, *shape))}}

  def used_channels(self, arch):
    return None

  def executed(self, arch):
    tree = jax.eval_shape(self.init, jax.random.key(0))
    ones = jax.tree.map(lambda leaf: jnp.ones((), jnp.float32), tree)
    cell = jax.tree.map(lambda leaf: jnp.full(self.cells, arch[0, 0, 1], jnp.float32), tree["stage_0"])
    return {**ones, "stage_0": cell}

  def by_layer(self, fn, *trees):
    stage = [t["stage_0"]["edge1_0"]["nor_conv_3x3"]["conv"]["kernel"] for t in trees]
    single = [[t["stem"]["conv"]["kernel"] for t in trees], [t["classifier"]["kernel"] for t in trees]]
    return jnp.concatenate([jax.vmap(fn)(*stage), *(fn(*kernels)[None] for kernels in single)])

  def costs(self, arch, image_size=32):
    sizes = jax.tree.map(lambda leaf: leaf.size, jax.eval_shape(self.init, jax.random.key(0)))
    on = self.executed(arch)
    params = sum(size * mask.mean() for size, mask in zip(jax.tree.leaves(sizes), jax.tree.leaves(on), strict=True))
    pixels, c = image_size**2, self.channels
    return Costs(params, pixels * 9.0 * c * (3.0 + self.cells * c * arch[0, 0, 1]) + (c + 1.0) * self.classes)


def evaluation(
  network, arch=CONV, *, samples=6, size=5, dtype=np.float32, seed=1, params=None, labels=True, key=0, rows=None
):
  """An `Evaluation` of random images [samples, size, size, 3]."""
  rng = np.random.default_rng(seed)
  return Evaluation(
    network=network,
    params=network.init(dtype=dtype) if params is None else params,
    arch=jnp.asarray(arch, dtype),
    inputs=jnp.asarray(rng.normal(size=(samples, size, size, 3)), dtype),
    labels=jnp.asarray(rng.integers(0, network.classes, samples), jnp.int32) if labels else None,
    key=jax.random.key(key),
    rows=rows,
  )


@functools.cache
def program(proxies, network, rows=None):
  """The proxies' traced parts in one program; what an `Evaluation` holds is data, but for the network."""

  def run(*arguments):
    e = Evaluation(network, *arguments, rows=rows)
    return [proxy.measure(e) for proxy in proxies]

  return jax.jit(run)


def contents(e):
  """The arrays of an `Evaluation`."""
  return e.params, e.arch, e.inputs, e._labels, e.problem, e._key


def raw(proxies, e):
  """What the traced parts give, on the host."""
  return jax.tree.map(np.asarray, program(tuple(proxies), e.network, e.rows)(*contents(e)))


def read(proxies, e):
  """A `Reading` for each proxy."""
  return [proxy.finish(value) for proxy, value in zip(proxies, raw(proxies, e), strict=True)]


def values(proxies, e):
  """Their values, which must be in order."""
  readings = read(proxies, e)
  assert [r.status for r in readings] == ["ok"] * len(readings)
  return [r.value for r in readings]
