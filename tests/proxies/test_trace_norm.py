"""NASI's score: the acceptance tests 1 and 2 of its specification, oracles of the four variants."""

import functools
import math

import jax
import numpy as np
import pytest
from tiny_network import CONV, SKIP, Tiny, contents, evaluation, program, values

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.proxies import Reading
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.trace_norm import trace_norm

NETWORK = Tiny(cells=1)
VARIANTS = ("paper", "per_sample", "exact", "successor")
FROZEN = tuple(trace_norm(variant, batch_norm="batch_frozen") for variant in VARIANTS)
COUPLED = tuple(trace_norm(variant, batch_norm="batch") for variant in VARIANTS)


def small(alphas=CONV, **changed):
  return evaluation(NETWORK, alphas, samples=4, size=4, dtype=np.float64, rows=3, **changed)


def everything(e):
  """Values of the four variants by mode, from one program."""
  found = values(FROZEN + COUPLED, e)
  return {"batch_frozen": found[:4], "batch": found[4:]}


def losses(logits, labels):
  return jax.vmap(lambda row, label: jax.nn.logsumexp(row) - row[label])(logits, labels)


@functools.cache
def dense(mode):
  """Jacobians, one sample a row: of the losses, of all logits, in `mode`."""

  def run(p, alphas, images, labels):
    network = NETWORK.with_batch_norm(mode)

    def both(p):
      logits = network.logits(p, images, alphas)
      return losses(logits, labels), logits

    return jax.jacrev(both)(p)

  return jax.jit(run)


def oracle(e, mode):
  by_loss, by_logit = jax.tree.map(np.asarray, dense(mode)(e.params, e.alphas, e.images, e.labels))
  rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(by_loss)], 1)
  outputs = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(by_logit)]
  own = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(by_logit)}
  assert own == {"kernel", "scale", "bias"}
  paths = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(by_logit)]
  labelled = 0.0
  for name, leaf in zip(paths, outputs, strict=True):
    for i, label in enumerate(np.asarray(e.labels)):
      labelled += np.square(leaf[i, label]).sum() if name == "kernel" else 0.0
  b = len(rows)
  gram = rows @ rows.T
  expected = [gram.mean(), np.trace(gram) / b, sum(np.square(leaf).sum() for leaf in outputs) / b]
  return [*expected, math.sqrt(labelled / b)]


@pytest.mark.parametrize("mode", ["batch_frozen", "batch"])
def test_variants_from_dense_jacobians(x64, mode):
  e = small()
  np.testing.assert_allclose(everything(e)[mode], oracle(e, mode), rtol=1e-9)


# Test 1 of the specification: the identities of the estimate


def test_estimate_is_the_gradient_of_the_mean_and_the_mean_of_the_gram_matrix(x64):
  e = small()

  def gradient_of_mean(p):
    return losses(NETWORK.with_batch_norm("batch_frozen").logits(p, e.images, e.alphas), e.labels).mean()

  gradient = jax.jit(jax.grad(gradient_of_mean))(e.params)
  one_pass = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
  gram_mean, per_sample, _, _ = oracle(e, "batch_frozen")
  found = dict(zip(VARIANTS, everything(e)["batch_frozen"], strict=True))
  np.testing.assert_allclose([found["paper"], found["paper"]], [one_pass, gram_mean], rtol=1e-9)
  assert found["per_sample"] >= found["paper"]  # Jensen
  np.testing.assert_allclose(found["per_sample"], per_sample, rtol=1e-9)


# Test 2: the exact trace, and the Lipschitz bound


def test_exact_is_the_trace_of_the_dense_kernel(x64):
  e = small()

  def kernel(p, stats):
    network = NETWORK.with_batch_norm("running")
    return ntk.gram_matrix(
      lambda p, x: network.logits(p, x, e.alphas, stats=stats), p, e.images, target="full", coupled=False
    )

  full = np.asarray(jax.jit(kernel)(e.params, NETWORK.moments(e.params, e.images, e.alphas)))
  assert full.shape == (4, 4, 3, 3)
  trace = sum(full[i, i, k, k] for i in range(4) for k in range(3))
  found = dict(zip(VARIANTS, everything(e)["batch_frozen"], strict=True))
  np.testing.assert_allclose(found["exact"], trace / 4, rtol=1e-9)
  assert found["per_sample"] <= 2 * found["exact"]  # cross-entropy is sqrt(2)-Lipschitz


def test_modes_differ_and_so_do_architectures(x64):
  found, skip = everything(small()), everything(small(SKIP))
  assert all(abs(a / b - 1) > 1e-3 for a, b in zip(found["batch_frozen"], found["batch"], strict=True))
  assert all(a != b for mode in found for a, b in zip(found[mode], skip[mode], strict=True))


def test_labels_matter_only_where_they_are_read(x64):
  e = small()
  other = Evaluation(e.network, e.params, e.alphas, e.images, (e.labels + 1) % 3, e.key, rows=3)
  for start, changed in zip(everything(e).values(), everything(other).values(), strict=True):
    assert [a == b for a, b in zip(start, changed, strict=True)] == [False, False, True, False]
  unlabelled = small(labels=False)
  assert jax.eval_shape(program((trace_norm("exact"),), NETWORK), *contents(unlabelled))


# What it declares, and bad input


def test_declarations():
  names = [trace_norm(variant).name for variant in VARIANTS]
  assert names == ["trace_norm", "trace_norm_per_sample", "trace_norm_exact", "trace_norm_successor"]
  assert [p.name for p in FROZEN] == ["trace_norm_batch_frozen", *names[1:]]
  assert [p.name for p in COUPLED] == [names[0], *(f"{name}_batch" for name in names[1:])]
  assert [p.needs_labels for p in FROZEN] == [True, True, False, True]
  assert all(p.higher_is_better for p in FROZEN)
  assert {p.batch_norm for p in COUPLED} == {"batch"}
  assert trace_norm("exact") is trace_norm("exact")
  for proxy in FROZEN:
    assert proxy.finish(np.float32(np.inf)).status == "non_finite"
    assert proxy.ranking_value(Reading(math.inf, "non_finite")) == 0.0


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"variant": "norm"}, "variant='norm'.*paper, per_sample, exact, successor"),
    ({"batch_norm": "running"}, "batch_norm='running'.*batch, batch_frozen"),
  ],
)
def test_settings_are_checked(arguments, message):
  with pytest.raises(ConfigError, match=message):
    trace_norm(**arguments)


@pytest.mark.parametrize("variant", ["paper", "per_sample", "successor"])
def test_missing_labels_are_named(variant):
  e = evaluation(NETWORK, labels=False)
  with pytest.raises(ConfigError, match="labels"):
    jax.eval_shape(program((trace_norm(variant),), NETWORK), *contents(e))
