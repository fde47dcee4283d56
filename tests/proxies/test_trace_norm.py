"""NASI's score: the acceptance tests 1 and 2 of its specification, oracles of the four variants."""

import functools
import math

import jax
import numpy as np
import pytest
from tiny_network import CONV, SKIP, Tiny, contents, evaluation, program, values

from jaxnas import ntk
from jaxnas.base import Reading, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.trace_norm import TraceNorm, TraceNormExact, TraceNormPerSample, TraceNormSuccessor

NETWORK = Tiny(cells=1)
VARIANTS = ("paper", "per_sample", "exact", "successor")
KINDS = (TraceNorm, TraceNormPerSample, TraceNormExact, TraceNormSuccessor)
FROZEN = tuple(kind(batch_norm="batch_frozen") for kind in KINDS)
COUPLED = tuple(kind(batch_norm="batch") for kind in KINDS)


def small(arch=CONV, **changed):
  return evaluation(NETWORK, arch, samples=4, size=4, dtype=np.float64, rows=3, **changed)


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
    def both(p):
      logits = NETWORK.apply(p, images, alphas, mode).logits
      return losses(logits, labels), logits

    return jax.jacrev(both)(p)

  return jax.jit(run)


def oracle(e, mode):
  by_loss, by_logit = jax.tree.map(np.asarray, dense(mode)(e.params, e.arch, e.inputs, e.labels))
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
    return losses(NETWORK.apply(p, e.inputs, e.arch, "batch_frozen").logits, e.labels).mean()

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
    def logits(p, x):
      return NETWORK.apply(p, x, e.arch, "running", stats=stats).logits

    return ntk.gram_matrix(logits, p, e.inputs, target="full", coupled=False)

  stats = NETWORK.apply(e.params, e.inputs, e.arch, collect=("stats",)).stats
  full = np.asarray(jax.jit(kernel)(e.params, stats))
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
  other = Evaluation(e.network, e.params, e.arch, e.inputs, (e.labels + 1) % 3, None, e.key, rows=3)
  for start, changed in zip(everything(e).values(), everything(other).values(), strict=True):
    assert [a == b for a, b in zip(start, changed, strict=True)] == [False, False, True, False]
  unlabelled = small(labels=False)
  assert jax.eval_shape(program((TraceNormExact(),), NETWORK), *contents(unlabelled))


# What it declares, and bad input


def test_declarations():
  names = [kind().name for kind in KINDS]
  assert names == ["trace_norm", "trace_norm_per_sample", "trace_norm_exact", "trace_norm_successor"]
  assert [p.name for p in FROZEN] == ["trace_norm_batch_frozen", *names[1:]]
  assert [p.name for p in COUPLED] == [names[0], *(f"{name}_batch" for name in names[1:])]
  assert [p.needs_labels for p in FROZEN] == [True, True, False, True]
  assert all(p.higher_is_better for p in FROZEN)
  assert {p.batch_norm for p in COUPLED} == {"batch"}
  assert TraceNormExact() == TraceNormExact() and hash(TraceNormExact()) == hash(TraceNormExact())
  assert len({*FROZEN, *COUPLED}) == 8
  for proxy in FROZEN:
    assert proxy.finish(np.float32(np.inf)).status == "non_finite"
    assert proxy.ranking_value(Reading(math.inf, Status.NON_FINITE)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_checked(unchecked, kind):
  with pytest.raises(ConfigError, match="batch_norm='running'.*batch, batch_frozen"):
    kind(batch_norm="running")


@pytest.mark.parametrize("kind", [TraceNorm, TraceNormPerSample, TraceNormSuccessor])
def test_missing_labels_are_named(kind):
  e = evaluation(NETWORK, labels=False)
  with pytest.raises(ConfigError, match="labels"):
    jax.eval_shape(program((kind(),), NETWORK), *contents(e))
