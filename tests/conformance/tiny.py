"""The smallest settings that show what a space, a proxy or an algorithm does."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needs_encoder

from jaxnas import base, data, registry

N, SIDE, CLASSES = 4, 8, 3
MANY = {"mgm_code": 50, "mgm_truncated": 50, "swap": 12}  # images of proxies that refuse fewer, or always see all
CONFIG = base.NetworkConfig(channels=4, cells=1, classes=CLASSES)
SMALL = {  # settings by field name, of whatever has them
  "climb_by": "params", "climb_steps": 2, "criterion": "params", "proxies": ("params", "l2_norm"),
  "archs": ("random:3",), "samples": 4, "score_batch": 4, "score_channels": 2, "score_cells": 1,
  "ntk_batch": 3, "ntk_channels": 1, "ntk_cells": 1, "region_batches": 1, "region_samples": 10, "repeats": 1,
  "knas_candidates": 4, "knas_shortlist": 2, "knas_batch": 4, "knas_channels": 2, "knas_cells": 1,
  "knas_score": "params",  "nasi_steps": 3, "nasi_batch": 2, "nasi_channels": 2, "nasi_cells": 1,
  "signal_hidden": 3, "rank_by": ("effective_params", "skip_length"), "ranked_candidates": "random:4",
  "ranked_shortlists": ("0", "1", "2"),
  "signal_steps": 2, "signal_interval": 1, "signal_batch": 2, "signal_channels": 2, "signal_cells": 1,
  "evolution_population": 3, "evolution_tournament": 2, "evolution_children": 2, "task_archs": 4,
  "train_epochs": 1, "train_batch": 8, "train_channels": 2, "train_cells": 1, "train_images": 16, "eval_images": 8,
}  # fmt: skip


def small(kind):
  """Settings of this class, and those in them, with the values of `SMALL`."""
  given = {}
  for field in dataclasses.fields(kind):
    if field.name in SMALL:
      given[field.name] = SMALL[field.name]
    elif dataclasses.is_dataclass(field.default_factory):
      given[field.name] = small(field.default_factory)
  return kind(**given)


# Spaces of a family share all of their code: these stand for it where every run, or every proxy, tries every space.
FAMILIES = {"nds_": ("nds_enas", "nds_resnext_a")}


def stood_for(name):
  """Whether another space stands for this one."""
  return any(name.startswith(family) and name not in few for family, few in FAMILIES.items())


def spaces_of(names, slow=stood_for):
  """The names as parameters of a test; by default those that others stand for are slow."""
  marks = {name: [pytest.mark.slow] * slow(name) + [needs_encoder] * (name == "encoder") for name in names}
  return [pytest.param(name, id=name, marks=own) for name, own in marks.items()]


@functools.cache
def samples(space, n):
  """The same n codes [n, L] in every test, fewer in a space that has fewer."""
  return space.sample(jax.random.key(0), min(n, len(space)))


@functools.cache
def images(n=N):
  """Normal images [n, SIDE, SIDE, 3]."""
  return jnp.asarray(np.random.default_rng(0).normal(size=(n, SIDE, SIDE, 3)), jnp.float32)


def batch(n=N):
  """Images with labels, of which every class has one."""
  return base.Batch(images(n), jnp.arange(n, dtype=jnp.int32) % CLASSES)


def reads_images(space):
  """Whether the space's networks read images."""
  return bool(base.lacking(space, base.Sequences))


@functools.cache
def source_of(space):
  """Of what the space's networks read, where it is not images."""
  takes_tokens = "tokens" in inspect.signature(registry.get("dataset", space.dataset)).parameters
  return data.load(space.dataset, tokens=data.TokenConfig(length=SIDE) if takes_tokens else None)


def batch_of(space, n=N):
  """What the space's networks read, and labels."""
  if reads_images(space):
    return batch(n)
  inputs, labels = source_of(space).examples(np.arange(n))
  return base.Batch(jnp.asarray(inputs), labels)


def config_of(space, shape):
  """The tiny config of a shape."""
  classes = CLASSES if reads_images(space) else source_of(space).classes
  return dataclasses.replace(CONFIG, shape=shape, classes=classes)


@functools.cache
def _network(space, shape):
  return space.network(config_of(space, shape))


def network_of(space, code):
  """The tiny network for a code, and its config."""
  shape = space.shape(code)
  return _network(space, shape), config_of(space, shape)


@functools.cache
def several(space, n):
  """A tiny network and n codes for it, a disconnected one among them if the space has any."""
  codes = samples(space, 300)
  shape = space.shape(codes[0])
  codes = np.stack([code for code in codes if space.shape(code) == shape])
  cut = [code for code in codes if not space.is_connected(code)][:1]
  alive = [code for code in codes if space.is_connected(code)][: n - len(cut)]
  return _network(space, shape), np.stack([*cut, *alive])
