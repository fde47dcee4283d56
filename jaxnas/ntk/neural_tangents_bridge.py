"""neural-tangents 0.6.5 on current JAX, without TensorFlow: infinite width, `stax`, `predict`, its finite kernels.

    nt = neural_tangents_bridge.load()
    _, _, kernel_fn = nt.stax.serial(nt.stax.Dense(512), nt.stax.Relu(), nt.stax.Dense(1))
    theta = kernel_fn(x1, x2, "ntk")  # of infinite width

The package is from before JAX 0.5 and asks at its import for parts of JAX that are gone. `load` lends it these for that
moment; what it asks for in later calls it gets in its own modules. So no module of JAX is changed once `load` has
returned. Its implementations 0 to 3, `stax`, `batch`, `linearize`, `monte_carlo_kernel_fn` and `predict` work; for
finite kernels `jaxnas.ntk.empirical_ntk_fn` needs none of this. Its `experimental` needs TensorFlow and stays out.

The only file that imports neural_tangents, and only when asked, and that touches parts of JAX that are not public.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.interpreters.ad
import scipy.linalg

INSTALL = "pip install --no-deps neural-tangents frozendict"

_OF_CORE = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")  # of jax.core then, of jax.extend.core now
_TENSORFLOW = "neural_tangents.experimental"  # what of the package needs it


def load() -> types.ModuleType:
  """The module `neural_tangents`, working.

  Raises:
    ImportError: it is not installed, or does not import on this JAX even so; says what to install.
  """
  try:
    with _lent():
      package = importlib.import_module("neural_tangents")
      parts = [importlib.import_module(f"neural_tangents._src.{name}") for name in ("empirical", "predict")]
  except (ImportError, AttributeError) as error:  # AttributeError: it asks for still other parts of JAX
    raise ImportError(
      f"neural_tangents cannot be imported on JAX {jax.__version__} ({error}); install it with `{INSTALL}` (its own "
      "requirements, the extra 'jaxnas[neural-tangents]', bring TensorFlow, which is not needed), or take "
      "jaxnas.ntk.empirical_ntk_fn, which needs neither"
    ) from error
  _repair(*parts)
  return package


@contextlib.contextmanager
def _lent() -> Iterator[None]:
  """What the package asks of JAX at its import, there until the end of the context."""
  if "neural_tangents" in sys.modules:
    yield
    return
  core = {name: getattr(jax.extend.core, name) for name in _OF_CORE}
  zeros_like = jax.extend.core.Primitive("zeros_like")  # it has rules for this one, which no program contains
  util = types.ModuleType("jax.util")
  util.__dict__.update(safe_map=_safe_map, safe_zip=_safe_zip)
  with (
    _set(jax.core.__dict__, core),
    _set(jax.interpreters.ad.__dict__, {"zeros_like_p": zeros_like}),
    _set(sys.modules, {"jax.util": util, _TENSORFLOW: types.ModuleType(_TENSORFLOW)}),
  ):
    yield
  del sys.modules["neural_tangents"].__dict__["experimental"]  # it can be imported later, where TensorFlow is


@contextlib.contextmanager
def _set(names: dict[str, Any], values: dict[str, Any]) -> Iterator[None]:
  """Names of a module with these values until the end of the context."""
  before = {name: names[name] for name in values if name in names}
  names.update(values)
  try:
    yield
  finally:
    for name in values:
      del names[name]
    names.update(before)


def _safe_map(f: Callable[..., Any], *lists: Any) -> list[Any]:
  return [f(*each) for each in zip(*lists, strict=True)]


def _safe_zip(*lists: Any) -> list[tuple[Any, ...]]:
  return list(zip(*lists, strict=True))


def _repair(empirical: types.ModuleType, predict: types.ModuleType) -> None:
  """Gives the package's own modules what their functions look up when they are called."""
  names = empirical.__dict__
  names["_get_flops"] = _flops  # implementation 0
  names["_get_primals_out_and_pullback"] = _pullback_of(names)  # implementation 3, as all that follows
  names["_eqn_vjp_fn"] = _transposed
  stack = types.SimpleNamespace(transform_name_stack=lambda name: contextlib.nullcontext())
  checks = types.SimpleNamespace(jax_enable_checks=False)
  names["ad"] = _with(jax.interpreters.ad, source_info_util=stack, config=checks)
  names["core"] = _with(jax.core, DShapedArray=type("DShapedArray", (), {}), Var=jax.extend.core.Var)

  def eigvalsh(matrix, eigvals):
    return scipy.linalg.eigvalsh(matrix, subset_by_index=eigvals)

  predict.__dict__["sp"] = types.SimpleNamespace(linalg=types.SimpleNamespace(eigvalsh=eigvalsh))  # max_learning_rate


def _with(module: types.ModuleType, **more: Any) -> types.SimpleNamespace:
  return types.SimpleNamespace(**{**module.__dict__, **more})


def _flops(f: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
  """What XLA says that f takes; it gave a list once, and gives nothing on some devices."""
  lowered = jax.jit(f).lower(*args, **kwargs)
  analysis = lowered.compile().cost_analysis() if optimize else lowered.cost_analysis()
  return (analysis or {}).get("flops", float("inf"))


def _pullback_of(names: dict[str, Any]) -> Callable[..., Any]:
  """Outputs of a function and the package's own walk back through its linear part."""

  def primals_out_and_pullback(fn, mode, _j_rules, _s_rules, _fwd, *primals):
    with jax.disable_jit():  # no calls in the program: it has no rules for them
      out, linear = jax.linearize(fn, *primals)
      program = jax.make_jaxpr(linear)(*primals)
    unknown = [jax.interpreters.ad.UndefinedPrimal(v.aval) for v in program.jaxpr.invars]
    rules = {"_j_rules": _j_rules, "_s_rules": _s_rules, "_fwd": _fwd}

    def pullback(*cotangents):
      walked = program.jaxpr, mode, program.consts, unknown, tuple(jax.tree.leaves(cotangents))
      return jax.tree.unflatten(jax.tree.structure(primals), names["_backward_pass"](*walked, **rules))

    return out, pullback

  return primals_out_and_pullback


def _transposed(eqn: Any, cotangent: Any, *values: Any) -> Any:
  """The cotangents of an equation's inputs."""
  if eqn is None:  # the identity
    return (cotangent,)
  return jax.interpreters.ad.get_primitive_transpose(eqn.primitive)(cotangent, *values, **eqn.params)
