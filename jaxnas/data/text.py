"""Text to classify, from files of tab-separated values.

- `rte`: GLUE's RTE, pairs of sentences; `RTE/train.tsv` and `RTE/dev.tsv` in --data_dir.
- `sst2`: SST-2, sentences; `SST-2/train.tsv`, `dev.tsv` and `test.tsv` there.
- `tsv:FILE`: a file of one's own is the split `train`; others are beside it (`dev.tsv`). Its labels are its classes.

A file is UTF-8, has a header, and no quoting. The text is in the column `sentence`, or in `sentence1` and `sentence2`,
the class in `label`; other columns are not read. Nothing is downloaded. Sentences become tokens when asked for.

Sources: Wang et al., "GLUE", ICLR 2019; Socher et al., "Recursive Deep Models for Semantic Compositionality Over a
Sentiment Treebank", EMNLP 2013.
"""

import functools
import os
import pathlib
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int64

from jaxnas import registry
from jaxnas.data.source import check_split
from jaxnas.data.token_source import TokenConfig, TokenSource, tokeniser
from jaxnas.errors import ConfigError, DatasetError, quoted
from jaxnas.files import user_path

SENTENCES = (("sentence",), ("sentence1", "sentence2"))  # columns of the text, one of these
LABEL = "label"


class _Known(NamedTuple):
  """A data set that has a name: its folder, its splits and classes."""

  folder: str
  splits: tuple[str, ...]
  classes: tuple[str, ...]


_KNOWN = {
  "rte": _Known("RTE", ("train", "dev"), ("entailment", "not_entailment")),
  "sst2": _Known("SST-2", ("train", "dev", "test"), ("0", "1")),
}


class Table(NamedTuple):
  """What stands in a file: the sentences of every example, and its label."""

  texts: list[tuple[str, ...]]
  labels: list[str]


def open_known(
  name: str,
  split: str,
  data_dir: str | os.PathLike[str] | None,
  download: bool,
  side: int,
  *,
  tokens: TokenConfig | None = None,
) -> TokenSource:
  """Opens `rte` or `sst2`; arguments and errors as of `data.load`."""
  del side
  known = _KNOWN[name]
  _refuse_download(download)
  base, _, _ = split.partition("[")
  if base not in known.splits:
    raise DatasetError(f"split {split!r} is not in data set {name!r}; give {' or '.join(known.splits)}, or a slice")
  if data_dir is None:
    raise DatasetError(f"data set {name!r}: give --data_dir=FOLDER, the one that holds {known.folder}/{base}.tsv")
  path = user_path(data_dir, "--data_dir") / known.folder / f"{base}.tsv"
  table = read_table(path, known.classes)
  if base == "train":
    _refuse_one_class(path, table)
  return _source(name, split, base, table, known.classes, tokens)


def open_file(
  split: str,
  data_dir: str | os.PathLike[str] | None,
  download: bool,
  side: int,
  *,
  file: str = "",
  tokens: TokenConfig | None = None,
) -> TokenSource:
  """Opens `tsv:FILE`; arguments and errors as of `data.load`."""
  del data_dir, side
  _refuse_download(download)
  if not file:
    raise ConfigError("--dataset=tsv: give the file, as in --dataset=tsv:FILE")
  path = user_path(file, "--dataset")
  base, _, _ = split.partition("[")
  check_split(split, "tsv", dict.fromkeys(("train", base), 0))
  table = read_table(path)
  _refuse_one_class(path, table)
  classes = tuple(sorted(set(table.labels)))
  if base != "train":
    beside = path.with_name(f"{base}.tsv")
    if beside == path:
      raise DatasetError(
        f"--dataset=tsv:{file}: this file is trained on, so it cannot be the split {base!r} too; rename it"
      )
    table = read_table(beside, classes)
  return _source(f"tsv:{file}", split, base, table, classes, tokens)


registry.register("dataset", "rte", functools.partial(open_known, "rte"))
registry.register("dataset", "sst2", functools.partial(open_known, "sst2"))
registry.register("dataset", "tsv", open_file)


def read_table(path: pathlib.Path, classes: tuple[str, ...] | None = None) -> Table:
  """Reads and checks a whole file.

  Args:
    classes: the labels that there may be; None: any.

  Raises:
    DatasetError: it is not there, not in UTF-8, has no examples or other columns; a line with too few or too many
      fields, an empty one, or an unknown label: says in which line, the header's being 1.
  """
  try:
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
  except OSError as error:
    raise DatasetError(
      f"{path} cannot be read ({error.strerror or error}); give a file of tab-separated values"
    ) from error
  except UnicodeDecodeError as error:
    line = 1 + error.object[: error.start].count(b"\n")
    raise DatasetError(f"{path}, line {line}: not in UTF-8 ({error.reason}); save the file as that") from error
  if lines[-1] == "":
    lines.pop()
  header, *rows = [line.removesuffix("\r").split("\t") for line in lines] or [[""]]
  columns = _columns(path, header)
  table = Table([], [])
  for number, row in enumerate(rows, start=2):
    if len(row) != len(header):
      _wrong(path, number, f"{len(row)} fields, where the header has {len(header)}: {', '.join(header)[:80]}")
    values = [row[place].strip() for place in columns]
    if "" in values:
      _wrong(path, number, f"an empty {header[columns[values.index('')]]}")
    *texts, label = values
    if classes is not None and label not in classes:
      _wrong(path, number, f"the label {quoted(label, 40)}, which is none of {', '.join(classes)}")
    table.texts.append(tuple(texts))
    table.labels.append(label)
  if not table.texts:
    raise DatasetError(f"{path} has no examples behind its header; give a file that has some")
  return table


def _columns(path: pathlib.Path, header: list[str]) -> list[int]:
  """Places of the columns of the text, then of the label."""
  for sentences in SENTENCES:
    names = (*sentences, LABEL)
    if all(header.count(name) == 1 for name in names):
      return [header.index(name) for name in names]
  _wrong(
    path,
    1,
    f"the columns {quoted(', '.join(header), 80)}; name one `label`, and one `sentence` or `sentence1` and `sentence2`",
  )


def _refuse_one_class(path: pathlib.Path, table: Table) -> None:
  if len(set(table.labels)) < 2:
    raise DatasetError(f"{path}: every label is {quoted(table.labels[0])}; a data set has two classes at least")


def _wrong(path: pathlib.Path, line: int, what: str) -> NoReturn:
  raise DatasetError(f"{path}, line {line}: {what}")


def _source(
  name: str, split: str, base: str, table: Table, classes: tuple[str, ...], tokens: TokenConfig | None
) -> TokenSource:
  config = tokens or TokenConfig()
  start, stop = check_split(split, name, {base: len(table.texts)})
  labels: Int64[np.ndarray, " n"] = np.array([classes.index(label) for label in table.labels[start:stop]])
  texts, make = table.texts[start:stop], tokeniser(config)

  return TokenSource(name, classes, labels, config.length, lambda places: make([texts[i] for i in places.tolist()]))


def _refuse_download(download: bool) -> None:
  if download:
    raise ConfigError("--download has no meaning for text, of which nothing is fetched; put the files there yourself")
