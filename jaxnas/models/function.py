"""A plain function `f(params, x)` as it is: nothing inside of it is known by type."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.models.hooks import Hooks


class FunctionCall:
  """A function; see `network.Call`.

  Raises:
    ConfigError: no parameters, or what only Flax's modules have.
  """

  kind = "a plain function"

  def __init__(
    self,
    f: Callable[..., Any],
    params: PyTree,
    batch_norms: tuple[type, ...],
    embedding: str | None,
    apply_kwargs: Mapping[str, Any],
  ):
    if params is None:
      raise ConfigError("variables=None: a plain function f(params, x) needs its parameters; give variables=params")
    for name, value in (("batch_norms", batch_norms), ("embedding", embedding)):
      if value:
        raise ConfigError(f"{name}={value!r}: a plain function has no modules to find it in; give the Flax module")
    self.params, self.stats = params, {}
    self._f, self.kwargs = f, dict(apply_kwargs)

  def __call__(self, params: PyTree, stats: PyTree, inputs: Array, hooks: Hooks) -> tuple[Any, PyTree]:
    """As `network.Call`."""
    del stats
    return self._f(params, inputs, **{**self.kwargs, **hooks.kwargs}), {}
