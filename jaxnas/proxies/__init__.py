"""Scores of a network at initialisation, one file each."""

import dataclasses
import functools
from collections.abc import Callable

from jaxnas.errors import ConfigError
from jaxnas.gennas.regression import signal_regression
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.fisher import fisher
from jaxnas.proxies.flops import flops
from jaxnas.proxies.grad_norm import grad_norm
from jaxnas.proxies.grasp import grasp
from jaxnas.proxies.jacob_cov import jacob_cov
from jaxnas.proxies.l2_norm import l2_norm
from jaxnas.proxies.linear_regions import linear_regions
from jaxnas.proxies.mgm import mgm
from jaxnas.proxies.naswot import naswot
from jaxnas.proxies.ntk_condition_number import ntk_condition_number
from jaxnas.proxies.params import params
from jaxnas.proxies.plain import plain
from jaxnas.proxies.proxy import Proxy, Reading
from jaxnas.proxies.snip import snip
from jaxnas.proxies.synflow import synflow
from jaxnas.proxies.trace_norm import trace_norm
from jaxnas.proxies.zen import zen

__all__ = ["NAMES", "Evaluation", "Proxy", "Reading", "get", "linear_regions", "ntk_condition_number"]


def _frozen_condition_number() -> Proxy:
  return dataclasses.replace(ntk_condition_number("batch_frozen"), name="ntk_condition_number_frozen")


_MAKE: dict[str, Callable[[], Proxy]] = {
  "ntk_condition_number": ntk_condition_number,
  "ntk_condition_number_frozen": _frozen_condition_number,
  "linear_regions": linear_regions,
  "signal_regression": signal_regression,
  "mgm": mgm,
  "mgm_output": functools.partial(mgm, target="output"),
  "mgm_layer_mean": functools.partial(mgm, reduce="layer_mean"),
  "mgm_batch1": functools.partial(mgm, batch_norm="batch1"),
  "mgm_code": functools.partial(mgm, "code"),
  "mgm_truncated": functools.partial(mgm, "truncated"),
  "trace_norm": trace_norm,
  "trace_norm_per_sample": functools.partial(trace_norm, "per_sample"),
  "trace_norm_exact": functools.partial(trace_norm, "exact"),
  "trace_norm_successor": functools.partial(trace_norm, "successor"),
  "grad_norm": grad_norm,
  "snip": snip,
  "grasp": grasp,
  "fisher": fisher,
  "synflow": synflow,
  "jacob_cov": jacob_cov,
  "naswot": naswot,
  "zen": zen,
  "plain": plain,
  "l2_norm": l2_norm,
  "params": params,
  "flops": flops,
}
NAMES = tuple(_MAKE)


def get(name: str) -> Proxy:
  """The proxy called `name`, with its defaults.

  Raises:
    ConfigError: there is none of that name.
  """
  if name not in _MAKE:
    raise ConfigError(f"proxy {name!r} is not known; choose among {', '.join(NAMES)}")
  return _MAKE[name]()
