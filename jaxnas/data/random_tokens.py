"""Random sequences of tokens, for what looks at networks and not at language; made on the fly.

A sequence begins and ends with the tokens that BERT's tokenizer puts there, and has words drawn uniformly between them,
of one segment and without padding. The two labels say nothing about it.
"""

import os

import numpy as np

from jaxnas import registry
from jaxnas.data.token_source import TokenConfig, TokenSource, vocabulary_of
from jaxnas.errors import DatasetError

SIZES = {"train": 50_000, "test": 10_000}
FIRST, LAST = 101, 102  # [CLS], [SEP]
WORDS = (1_000, 30_522)  # from the first that is no sign to the end of the vocabulary


@registry.register("dataset", "tokens")
def open_tokens(
  split: str,
  data_dir: str | os.PathLike[str] | None,
  download: bool,
  side: int,
  *,
  tokens: TokenConfig | None = None,
) -> TokenSource:
  """As `data.load` opens it; there are no files.

  Raises:
    DatasetError: `split` is neither `train` nor `test`; a tokenizer that has fewer tokens than are drawn from.
  """
  del data_dir, download, side
  if split not in SIZES:
    raise DatasetError(f"split {split!r} is not in data set 'tokens'; it has train, test")
  config = tokens or TokenConfig()
  if config.tokenizer is not None and (size := vocabulary_of(config)) < WORDS[1]:
    raise DatasetError(
      f"--dataset=tokens draws from the {WORDS[1]:,} tokens of BERT's tokenizer, and {config.tokenizer} has {size:,}; "
      "give a --dataset of text"
    )
  length = config.length
  stream = sorted(SIZES).index(split)

  def read(indices: np.ndarray) -> np.ndarray:
    found = np.zeros((len(indices), length, 3), np.int32)
    found[..., 2] = 1
    for row, index in zip(found, indices.tolist(), strict=True):
      row[:, 0] = np.random.default_rng((stream, index)).integers(*WORDS, length)
    found[:, 0, 0], found[:, -1, 0] = FIRST, LAST
    return found

  return TokenSource("tokens", ("0", "1"), np.arange(SIZES[split]) % 2, length, read)
