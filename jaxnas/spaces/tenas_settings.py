"""What the published code of TE-NAS sets for a search space."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TENASSettings:
  """Published settings; those that are also flags take effect where the flag is 0.

  Attributes:
    ntk_batch: images in the NTK's batch.
    ntk_channels, ntk_cells: arguments of the space's `supernet`.
    prune_number: operations pruned on each edge in a round.
    op_order: the op columns in the order of the official code, in which it evaluates candidates and breaks ties.
  """

  ntk_batch: int
  ntk_channels: int
  ntk_cells: int
  prune_number: int
  op_order: tuple[int, ...]
