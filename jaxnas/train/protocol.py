"""What the trainer asks of a network."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree


@runtime_checkable
class Trainable(Protocol):
  """Pure functions of parameters, images and one-hot alphas [cell types, edges, ops]; hashable.

  `config` is a frozen dataclass with at least `classes`, `batch_norm` and, if there is an auxiliary head, `auxiliary`.
  A network with drop-path takes `drop_path` (a probability) and `key` in `logits_and_moments` too, one with an
  auxiliary head returns (logits, auxiliary logits) there. Moments are trees of pairs (mean, variance).
  """

  @property
  def config(self) -> Any: ...

  def with_batch_norm(self, mode: str) -> "Trainable":
    """The same network with another mode; `running` reads `stats` in `logits`."""
    ...

  def init_params(self, key: Array) -> PyTree:
    """Fresh float32 parameters."""
    ...

  def executed(self, alphas: Float[Array, "T E O"]) -> PyTree:
    """A tree like the parameters: 1 where the architecture uses them, of their first axes or []."""
    ...

  def logits(
    self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "T E O"], *, stats: PyTree | None = None
  ) -> Float[Array, "N K"]:
    """Outputs without auxiliary head and drop-path."""
    ...

  @property
  def logits_and_moments(self) -> Callable[..., tuple[Any, PyTree]]:
    """(params, images, alphas, *, unbiased) -> outputs and the mini-batch's moments.

    With `unbiased`, variances are of n - 1 and the moments are constants.
    """
    ...
