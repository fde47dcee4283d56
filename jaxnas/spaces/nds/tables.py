"""What tells the eleven Network Design Spaces on ImageNet apart: operations, nodes, values that their samples have.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and the values that its tables
have.
"""

import dataclasses
from typing import Final, Literal

Variant = Literal["trained", "code"]
"""The networks that the accuracies belong to, or those that GenNAS's code builds of the same entries."""

DEPTHS: Final = (6, 10, 14, 18, 22)


@dataclasses.dataclass(frozen=True)
class CellTable:
  """A space of cells.

  Attributes:
    name: as in --space.
    ops: names of the operations; an operation's column is its place.
    nodes: of a cell, without its two inputs.
    all_nodes: whether a cell always concatenates all of its nodes; else each genotype has a set of its own.
    widths, depths: channels of the first cell, and numbers of cells, that are drawn.
    learning_rate: that all networks of the published table were trained with; None: each with its own.
    most_params: networks that are drawn have at most so many parameters, as those of the published table.
  """

  name: str
  ops: tuple[str, ...]
  nodes: int
  all_nodes: bool
  widths: tuple[int, ...]
  depths: tuple[int, ...] = DEPTHS
  learning_rate: float | None = 0.05
  most_params: int = 6_000_000


@dataclasses.dataclass(frozen=True)
class BlockTable:
  """A space of stages of equal blocks; a tuple has the values that are drawn.

  Attributes:
    name: as in --space.
    block: the kind of block.
    strides: that of the stem, then of every stage's first block.
    stem_widths: channels of the stem.
    depths, widths: blocks and channels of a stage.
    bot_muls: inner channels of a bottleneck over those of its stage; empty for other blocks.
    groups: of a bottleneck's 3x3 convolution; empty for other blocks.
    learning_rate, most_params: as of `CellTable`.
  """

  name: str
  block: str
  strides: tuple[int, ...]
  stem_widths: tuple[int, ...]
  depths: tuple[int, ...]
  widths: tuple[int, ...]
  bot_muls: tuple[float, ...] = ()
  groups: tuple[int, ...] = ()
  learning_rate: float | None = 0.05
  most_params: int = 8_000_000

  @property
  def stages(self) -> int:
    """Without the stem."""
    return len(self.strides) - 1

  @property
  def has_code(self) -> bool:
    """Whether GenNAS's builder takes these networks: it has four stages, and takes the stem's entries for the first."""
    return len(self.strides) == 4


PLAIN: Final = "double_plain_block"
BASIC: Final = "res_basic_block"
BOTTLENECK: Final = "res_bottleneck_block"
BLOCKS: Final = (PLAIN, BASIC, BOTTLENECK)

_DARTS = (
  *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
  *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
_ENAS = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
_SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7")
_PNAS = ("skip_connect", *_SEPARABLE, "conv_7x1_1x7", "avg_pool_3x3", "max_pool_3x3", "dil_conv_3x3")
_AMOEBA = ("skip_connect", *_SEPARABLE, "avg_pool_3x3", "max_pool_3x3", "dil_sep_conv_3x3", "conv_7x1_1x7")
_NASNET = (
  *("skip_connect", "conv_3x1_1x3", "conv_7x1_1x7", "dil_conv_3x3", "avg_pool_3x3"),
  *("max_pool_3x3", "max_pool_5x5", "max_pool_7x7", "conv_1x1", "conv_3x3", *_SEPARABLE),
)
_POWERS = (1, 2, 4, 8, 16)
_RESNEXT = {"block": BOTTLENECK, "strides": (8, 1, 2, 2), "stem_widths": (64,), "depths": _POWERS}
_BOTTLENECKS = (0.25, 0.5, 1.0)
_RESNET = {
  "strides": (4, 1, 2, 2, 2),
  "stem_widths": (16, 32, 64),
  "depths": (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24),
  "widths": (16, 32, 48, 64, 96, 128, 192, 256, 384, 512),
  "learning_rate": None,
  "most_params": 6_000_000,
}

CELL_TABLES: Final = (
  CellTable("nds_amoeba", _AMOEBA, 5, False, (32, 48, 64, 80)),
  CellTable("nds_darts", _DARTS, 4, True, (32, 48, 64, 80, 96)),
  CellTable("nds_darts_fix_w_d", _DARTS, 4, True, (32,), (22,), 0.0125),
  CellTable("nds_darts_lr_wd", _DARTS, 4, True, (32, 48, 64, 80, 96), learning_rate=None),
  CellTable("nds_enas", _ENAS, 5, False, (32, 48, 64, 80)),
  CellTable("nds_nasnet", _NASNET, 5, False, (32, 48, 64)),
  CellTable("nds_pnas", _PNAS, 5, True, (32, 48, 64, 80)),
)
BLOCK_TABLES: Final = (
  BlockTable("nds_resnext_a", widths=(16, 32, 64, 128, 256), bot_muls=_BOTTLENECKS, groups=(1, 2, 4), **_RESNEXT),
  BlockTable("nds_resnext_b", widths=(64, 128, 256, 512, 1024), bot_muls=_BOTTLENECKS, groups=_POWERS, **_RESNEXT),
  BlockTable("nds_resnet_lr_wd", BASIC, **_RESNET),
  BlockTable("nds_vanilla_lr_wd", PLAIN, **_RESNET),
)
