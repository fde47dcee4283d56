"""ReLUs' signs wherever the samples are: in any axis, merged with another, in loops; against one sample at a time."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from jax import lax
from jax.nn import relu

import jaxnas
from jaxnas.errors import ConfigError
from jaxnas.models import as_network

N, T, C, H, K = 4, 5, 3, 6, 2
PARAMS = {"in": (0, C, H), "loop": (1, H, H), "out": (2, H, K), "scale": (3, H)}


def conv(x, w, numbers):
  return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)


def scanned(step, start, x, **settings):
  return lax.scan(lambda h, row: (step(h, row), None), start, x, **settings)[0]


def time_major(p, x):
  return relu(jnp.moveaxis(x, 1, 0) @ p["in"]).mean(0)


def samples_last(p, x):
  return relu(jnp.einsum("ch,ntc->htn", p["in"], x)).mean(1).T


def merged(p, x):
  return relu(x.reshape(-1, C) @ p["in"]).reshape(-1, T, H).mean(1)


def merged_time_major(p, x):
  return relu(jnp.moveaxis(x, 1, 0).reshape(-1, C) @ p["in"]).reshape(T, -1, H).mean(0)


def mapped(p, x):
  return jax.vmap(lambda row: relu(row @ p["in"]).mean(0))(x)


def channels_first(p, x):
  return relu(conv(jnp.moveaxis(x, 2, 1)[..., None], p["in"].T[..., None, None], ("NCHW", "OIHW", "NCHW"))).mean((2, 3))


def samples_are_columns(p, x):
  return relu(conv(x.T[:, :, None], p["in"][:, None, None], ("CHWN", "IHWO", "CHWN"))).mean((1, 2)).T


def scaled_by_parameters(p, x):
  return relu(x @ p["in"]).mean(1) * relu(p["scale"]) * relu(p["scale"][:N]).sum()


def centred(p, x):
  return relu((x - x.mean((0, 1), keepdims=True)) @ p["in"]).mean(1)


def recurrent(p, x):
  start = jnp.zeros((len(x), H), x.dtype)
  return scanned(lambda h, row: relu(h @ p["loop"] + row @ p["in"]), start, jnp.moveaxis(x, 1, 0))


def recurrent_backwards(p, x):
  def step(h, row):
    return relu(p["loop"].T @ h + p["in"].T @ row)

  return scanned(step, jnp.zeros((H, len(x)), x.dtype), jnp.moveaxis(x, 0, 2), reverse=True).T


def mapped_recurrent(p, x):
  return jax.vmap(lambda row: recurrent(p, row[None])[0])(x)


def one_token(p, x):
  return [x @ p["in"]]


def one_centred(mean, p, x):
  return [(x - mean) @ p["in"]]


def one_recurrent(p, x):
  h, found = np.zeros(H), []
  for row in x:
    found.append(h @ p["loop"] + row @ p["in"])
    h = np.maximum(found[-1], 0)
  return found


def parameters(dtype=np.float64):
  return {name: draw(*shape, dtype=dtype) for name, shape in PARAMS.items()}


def with_head(body):
  return lambda p, x, **kwargs: body(p, x, **kwargs) @ p["out"]


def signs(one, p, x):
  """[N, units], one sample after the other."""
  p = jax.tree.map(np.asarray, p)
  return np.stack([np.concatenate([np.ravel(z) for z in one(p, row)]) > 0 for row in np.asarray(x)])


def ordered(patterns):
  patterns = np.asarray(patterns)
  return patterns[:, np.lexsort(patterns)]


def patterns(body, x, p, **settings):
  with jax.numpy_rank_promotion("allow"):
    network, params = as_network(with_head(body), x, p, **settings)
    return network.apply(params, x, jnp.zeros(0), collect=("patterns",)).patterns


@pytest.mark.parametrize(
  ("body", "one"),
  [
    (time_major, one_token),
    (samples_last, one_token),
    (merged, one_token),
    (merged_time_major, one_token),
    (mapped, one_token),
    (channels_first, one_token),
    (samples_are_columns, one_token),
    (scaled_by_parameters, one_token),
    (recurrent, one_recurrent),
    (recurrent_backwards, lambda p, x: one_recurrent(p, x[::-1])),
    (mapped_recurrent, one_recurrent),
  ],
)
@pytest.mark.parametrize("steps", [T, N])
def test_signs_are_those_of_one_sample_at_a_time(body, one, steps, x64, monkeypatch):
  monkeypatch.setitem(globals(), "T", steps)
  x, p = draw(4, N, steps, C), parameters()
  np.testing.assert_array_equal(ordered(patterns(body, x, p)), ordered(signs(one, p, x)))


def test_what_all_samples_share_is_spread_out_over_them(x64):
  x, p = draw(4, N, T, C), parameters()
  one = functools.partial(one_centred, np.asarray(x).mean((0, 1)))
  np.testing.assert_array_equal(ordered(patterns(centred, x, p)), ordered(signs(one, p, x)))


def test_arguments_with_a_row_a_sample(x64):
  """Masks and the like are repeated with the samples, and what they alone enter is a sample's own too."""
  x, p, mask = draw(4, N, T, C), parameters(), np.asarray(draw(5, N, T, C))

  def body(p, x, mask):
    return (relu((x * mask) @ p["in"]) + relu(jnp.asarray(mask) @ p["in"])).mean(1)

  found = patterns(body, x, p, apply_kwargs={"mask": mask})
  both = [signs(one_token, p, each) for each in (np.asarray(x) * mask, mask)]
  np.testing.assert_array_equal(ordered(found), ordered(np.concatenate(both, 1)))
  with jax.numpy_rank_promotion("allow"):
    network, params = as_network(with_head(body), x, p, apply_kwargs={"mask": mask})
    with pytest.raises(ConfigError, match="apply_kwargs, fit no other"):  # whose rows would be spread out over it
      network.apply(params, x[:1], jnp.zeros(0))


def test_values_of_a_recurrent_model(x64):
  x, p = draw(4, N, T, C), parameters()
  on = signs(one_recurrent, p, x).astype(float)
  with jax.numpy_rank_promotion("allow"):
    found = jaxnas.measure(with_head(recurrent_backwards), x[:, ::-1], ("naswot", "swap"), variables=p)
  np.testing.assert_allclose(found["naswot"].value, np.linalg.slogdet(on @ on.T + (1 - on) @ (1 - on).T).logabsdet)
  assert found["swap"].value == len(set(map(tuple, on.T)) - {(0.0,) * N})


@pytest.mark.parametrize(
  ("body", "words"),
  [
    (lambda p, x: lax.map(lambda row: relu(row @ p["in"]).mean(0), x), "a step for each sample; take jax.vmap"),
    (lambda p, x: relu(x.reshape(T, -1, C) @ p["in"]).mean(0), "reshape of .* mixes the 4 samples"),
    (lambda p, x: relu(x.reshape(2, -1, T, C) @ p["in"]).mean(2).reshape(-1, H), "reshape of .* mixes the 4 samples"),
    (lambda p, x: relu(x[::-1] @ p["in"]).mean(1), "rev picks among"),
    (lambda p, x: relu(jnp.sort(x, 0) @ p["in"]).mean(1), "sort picks among"),
    (lambda p, x: relu(x[jnp.arange(len(x))[::-1]] @ p["in"]).mean(1), "gather picks among"),
    (lambda p, x: relu(x.at[jnp.arange(len(x))[::-1]].set(x) @ p["in"]).mean(1), "scatter picks among"),
    (lambda p, x: relu(jnp.roll(x, 1, 0) @ p["in"]).mean(1), "no one axis counts the 4 samples"),
    (
      lambda p, x: relu(jnp.pad(x, ((1, 0), (0, 0), (0, 0)))[:-1] @ p["in"]).mean(1),
      "no one axis counts the 4 samples",
    ),
    (lambda p, x: relu(jnp.einsum("mn,ntc->mtc", jnp.eye(len(x), dtype=x.dtype), x) @ p["in"]).mean(1), "dot_general"),
    (lambda p, x: relu(jnp.concatenate([x, x]) @ p["in"])[: len(x)].mean(1), "concatenate picks among"),
    (lambda p, x: relu(x[:, 0] @ x[:, 0].T) @ x[:, 0] @ p["in"], "no one axis counts the 4 samples"),
    (lambda p, x: relu(x @ p["in"]).mean(1) * relu(x.mean()), "of all samples together"),
    (lambda p, x: relu(x.reshape(N, T, C) @ p["in"]).mean(1), "cannot be called with twice as many"),
    (
      lambda p, x: jnp.stack([relu(x[i] @ p["in"]).mean(0) for i in range(N)]),
      r"outputs are of shape \(4, 2\)",
    ),
    (lambda p, x: jnp.stack([relu(row @ p["in"]).mean(0) for row in x]), "computes otherwise for twice as many"),
  ],
)
def test_samples_that_cannot_be_followed_are_refused(body, words):
  x, p = draw(4, N, T, C, dtype=np.float32), parameters(np.float32)
  with jax.numpy_rank_promotion("allow"):
    found = jaxnas.measure(with_head(body), x, ("naswot", "swap", "params"), variables=p)
  assert found["params"].value == sum(w.size for w in p.values())
  for name in ("naswot", "swap"):
    assert np.isnan(found[name].value)
    assert found[name].why.startswith("where the samples are in what an activation is given is not known: ")
    assert re.search(words, found[name].why)


class TimeMajor(nn.Module):
  pooled: bool = True

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(H)(jnp.moveaxis(x, 1, 0)))
    return nn.Dense(K)(x.mean(0) if self.pooled else jnp.moveaxis(x, 1, 0).mean(1))


def test_other_proxies_of_samples_in_another_axis():
  """As many samples as tokens: nothing but the program tells the one axis from the other."""
  x, labels = draw(4, N, N, C, dtype=np.float32), np.arange(N) % K
  found = jaxnas.measure(TimeMajor(), (x, labels), ("fisher", "zen", "naswot"))
  assert found["fisher"].why == "gates of single layers: samples are not the first axis of what 'Dense_0' gives"
  assert "no global average pooling" in found["zen"].why and found["naswot"].status == "ok"
  assert jaxnas.measure(TimeMajor(pooled=False), x, ("zen",))["zen"].status == "ok"
