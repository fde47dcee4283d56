"""Gram matrices from one backward pass against those of the dense Jacobian, in each space that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import NetworkConfig, SampleGram

KINDS = ("kernel", "scale", "bias")
CELL = [  # every operation
  ("sep_conv_5x5", 0), ("skip_connect", 1), ("dil_conv_3x3", 0), ("max_pool_3x3", 2),
  ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_5x5", 1), ("skip_connect", 3),
]  # fmt: skip
SIZES = {
  "nb201": {"channels": 4, "cells": 1},
  "nb101": {"channels": 5, "cells": 2},  # five channels are not divided evenly between two vertices
  "darts": {"channels": 2, "cells": 1},  # a reduction cell alone, as data
  # In a stage the first cell reads the halves of an input twice the side, and the second does not.
  "darts, static": {"channels": 2, "cells": 7},
  "darts, supernet": {"channels": 2, "cells": 2},
  "darts, mobile": {"channels": 2, "cells": 3, "stem": "imagenet"},
}
TEXTS = {
  "nb201": [
    "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_1x1~2|",
    "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_1x1~1|none~2|",  # node 2 leads nowhere
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
  ],
  "nb101": [
    "conv3x3:0|conv1x1:0|maxpool3x3:1|conv1x1:12|output:034",
    "maxpool3x3:0|conv3x3:01|conv3x3:0|output:23",
  ],
  "darts": [
    f"Genotype(normal={CELL}, normal_concat=range(2, 6), reduce={CELL}, reduce_concat=range(2, 6))",
    "TENAS_IMAGENET",
  ],
}


def network_of(name, code):
  """As data, NAS-Bench-101's for cells of two vertices that feed the output."""
  space = spaces.get(name[:5])
  config = NetworkConfig(classes=3, init="kaiming_fan_out", **SIZES[name])
  if name == "nb101":
    return space.network(config).variants()[2]
  if name == "darts, supernet":
    return space.supernet(config)
  return space.trained_network(config, code) if "," in name else space.network(config)


def outputs(logits):
  return logits[:, 0] - 2 * jnp.tanh(logits[:, 1])


def drawn(network):
  """Float64 parameters, scales and biases not 1 and 0."""
  rng, spread = np.random.default_rng(0), {"kernel": (0, 0.4), "scale": (1, 0.2), "bias": (0, 0.1)}
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(lambda path, s: rng.normal(*spread[path[-1].key], s.shape), shapes)


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=[pytest.mark.slow] * (name != "nb201")) for name in SIZES],
)
def test_one_backward_pass_gives_what_the_dense_jacobian_gives(x64, name):
  codes = [spaces.get(name[:5]).parse(text) for text in TEXTS[name[:5]]][: 1 if "," in name else None]
  network = network_of(name, codes[0])
  assert isinstance(network, SampleGram)
  side = 24 if "mobile" in name else 8
  images = jnp.asarray(np.random.default_rng(1).normal(size=(5, side, side, 3)))

  def dense(params, arch):
    jacobian = jax.jacrev(lambda p: outputs(network.apply(p, images, arch, "batch_frozen").logits))(params)
    rows = {kind: [] for kind in KINDS}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jacobian):
      rows[path[-1].key].append(leaf.reshape(len(images), -1))
    return {kind: jnp.concatenate(own, 1) for kind, own in rows.items()}

  def by_one_pass(params, arch):
    gram = network.sample_gram(params, images, arch, outputs)
    return gram, network.sample_gram(params, images, arch, outputs, include=KINDS, diagonal=True)

  params, found, wanted = drawn(network), jax.jit(by_one_pass), jax.jit(dense)
  for code in codes:
    arch = network.encode(code[None])[0]
    arch = jnp.asarray(arch, jnp.float64 if arch.dtype == np.float32 else arch.dtype)
    (gram, squares), rows = found(params, arch), wanted(params, arch)
    expected = sum(rows[kind] @ rows[kind].T for kind in ("kernel", "scale"))
    np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-10 * np.abs(expected).max(), err_msg=str(code))
    np.testing.assert_allclose(squares, sum(np.square(r).sum(1) for r in rows.values()), rtol=1e-10, err_msg=str(code))
