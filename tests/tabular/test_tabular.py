"""Tables of accuracies: CSV against NATS-Bench, look-ups, conversion, bad input."""

import bz2
import csv
import gzip
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import benchmark_refused

from jaxnas import registry, spaces, tabular
from jaxnas.errors import ArchitectureError, BenchmarkError, ConfigError
from jaxnas.spaces.nb201 import nats
from jaxnas.spaces.nb201.accuracies import COLUMNS, DATASETS
from jaxnas.tabular.__main__ import main

SPACE = spaces.get("nb201")

FOLDER = "NATS-tss-v1_0-3ffb9-simple"
HELD = (0, 11, 284)
SPLITS = [(d, s) for d in DATASETS for s in ("test", "valid")] + [("cifar10", "valid_12ep")]


@pytest.fixture(scope="module")
def data(shared):
  return shared / "data"


@pytest.fixture(scope="module")
def table(data):
  return tabular.open_benchmark(data / "nasbench201.csv.gz", SPACE)


@pytest.fixture
def folder(data):
  return tabular.open_benchmark(data / FOLDER, SPACE, trust_pickle=True)


@pytest.fixture(scope="module")
def lines(data):
  """The lines of the real table, to damage in each test."""
  return gzip.decompress((data / "nasbench201.csv.gz").read_bytes()).decode().splitlines()


def row_of(benchmark, arch):
  accuracies = [benchmark.accuracy(arch, dataset, split) for dataset, split in SPLITS]
  return [*accuracies, benchmark.value(arch, "cost_12ep_s"), benchmark.value(arch, "params_mb")]


def bz2_pickle(path, value):
  path.write_bytes(bz2.compress(pickle.dumps(value)))
  return path


def single_file(data, path, indices=HELD):
  """The folder's three architectures in the layout of the single NATS-Bench file."""

  def load(name):
    return pickle.loads(bz2.decompress((data / FOLDER / f"{name}.pickle.pbz2").read_bytes()))

  infos = {index: load(f"{index:06d}") for index in indices}
  meta = load("meta")["meta_archs"]
  value = {"meta_archs": meta, "arch2infos": infos, "evaluated_indexes": set(indices)}
  return bz2_pickle(path, value)


# Values.


def test_table_agrees_with_published_bests(table):
  # data/README.md, section 1.
  expected = {
    ("cifar10", "test"): (6111, 94.37),
    ("cifar100", "test"): (9930, 73.51),
    ("imagenet16_120", "test"): (857, 47.31),
    ("cifar10", "valid"): (6111, 91.61),
    ("cifar100", "valid"): (9930, 73.49),
    ("imagenet16_120", "valid"): (10676, 46.73),
  }
  for key, (index, accuracy) in expected.items():
    found = table.best(*key)
    assert found[0] == index
    assert found[1] == pytest.approx(accuracy, abs=0.005)
    assert table.rank(index, *key) == (1, 15_625)


def test_nats_folder_equals_the_table(table, folder):
  assert folder.archs == table.archs
  for index in HELD:
    np.testing.assert_allclose(row_of(folder, index), row_of(table, index), rtol=0, atol=1e-6)
    assert row_of(folder, table.archs[index]) == row_of(folder, index)
  assert folder.unread == set()


def test_single_file_equals_the_folder(data, folder, tmp_path):
  single = tabular.open_benchmark(
    single_file(data, tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"), SPACE, trust_pickle=True
  )
  assert single.unread == set(HELD)
  for index in HELD:
    assert row_of(single, index) == row_of(folder, index)
  for dataset, split in SPLITS:
    assert single.rank(0, dataset, split) == folder.rank(0, dataset, split)


def test_fast_mode_is_for_folders_only(data, tmp_path, monkeypatch):
  import nats_bench

  seen = []
  create = nats_bench.create

  def spy(path, space, fast_mode, verbose):
    seen.append((space, fast_mode, verbose))
    return create(path, space, fast_mode=fast_mode, verbose=verbose)

  monkeypatch.setattr(nats_bench, "create", spy)
  tabular.open_benchmark(data / FOLDER, SPACE, trust_pickle=True)
  tabular.open_benchmark(single_file(data, tmp_path / "one.pickle.pbz2", indices=(11,)), SPACE, trust_pickle=True)
  assert seen == [("tss", True, False), ("tss", False, False)]


def test_folder_without_home_or_torch_home(data, monkeypatch, capfd):
  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.delenv("TORCH_HOME", raising=False)
  assert tabular.open_benchmark(data / FOLDER, SPACE, trust_pickle=True).accuracy(11, "cifar10") > 91
  captured = capfd.readouterr()
  assert captured.out == ""
  assert captured.err == ""


# By name.


def test_the_table_in_the_package_is_the_default(table):
  embedded = tabular.open_benchmark(None, SPACE)
  assert embedded.archs == table.archs
  for name in COLUMNS:
    np.testing.assert_array_equal(embedded.columns[name], table.columns[name])
  named = tabular.open_benchmark("nb201", SPACE)
  assert (named.space, named.datasets, named.split) == ("nb201", DATASETS, "test")


def test_its_architectures_are_in_the_order_of_their_indices_and_have_the_parameters_that_we_count():
  embedded = tabular.open_benchmark(None, SPACE)
  assert embedded.archs == tuple(map(SPACE.format, SPACE.enumerate_all()))
  for index in (0, 1, 77, 6111, 15_624):
    ours = SPACE.costs(SPACE.from_index(index)).params
    assert embedded.value(index, "params_mb") * 1e6 == pytest.approx(ours, abs=0.5)


def test_none_and_spaces_without_a_table_have_no_benchmark():
  assert tabular.open_benchmark("none", SPACE) is None
  assert tabular.open_benchmark(None, spaces.get("darts")) is None


def test_names_of_benchmarks():
  with pytest.raises(BenchmarkError, match=r"^--benchmark='nb20' is not known; did you mean nb201\?.*path of a file"):
    tabular.open_benchmark("nb20", SPACE)
  with pytest.raises(BenchmarkError, match=r"^--benchmark=nb201: a benchmark of another space than darts"):
    tabular.open_benchmark("nb201", spaces.get("darts"))


def test_a_registered_benchmark_is_opened_by_its_name(table, monkeypatch):
  mine = tabular.Benchmark(
    "mine", "nb201", "mine", table.archs[:2], {"cifar10_test": np.array([1.0, 2.0])}, ("cifar10",)
  )
  monkeypatch.setitem(registry._made["benchmark"], "mine", lambda: mine)
  assert tabular.open_benchmark("mine", SPACE) is mine


def test_opening_the_table_in_the_package_is_quick():
  begin = time.process_time()
  tabular.open_benchmark(None, SPACE).rank(0, "cifar10")
  assert time.process_time() - begin < 1  # 0.14 s on the machine on which it was written


# Look-ups.


def test_unknown_values_are_nan(folder):
  assert np.isnan(row_of(folder, 1)).all()
  assert folder.rank(1, "cifar10") == (None, 3)
  assert not np.isnan(row_of(folder, 0)).any()
  known = np.flatnonzero(~np.isnan(folder.accuracies("cifar100", "valid")))
  assert tuple(known) == HELD


def test_rows_are_read_only_when_asked_for(folder):
  folder.accuracy(11, "cifar10")
  assert folder.unread == {0, 284}
  folder.rank(11, "cifar10")
  assert folder.unread == set()


def test_rank_counts_the_strictly_better(table):
  for dataset, split in SPLITS:
    values = np.round(table.accuracies(dataset, split), 4)
    for index in (0, 17, 6111, 15_624):
      assert table.rank(index, dataset, split) == (1 + np.sum(values > values[index]), len(values))


def test_rank_ignores_rounding_noise(data, lines, tmp_path):
  """10 images of 10,000 are one step; 1e-8 points are float noise, not an order."""
  fields = [line.split(",") for line in lines]
  for row, value in zip(fields[1:], (93.3333333, 93.33333331, 93.3433333), strict=False):
    row[3] = str(value)
  for row in fields[4:]:
    row[3] = ""
  path = tmp_path / "t.csv"
  path.write_text("\n".join(map(",".join, fields)) + "\n")
  benchmark = tabular.open_benchmark(path, SPACE)
  assert [benchmark.rank(i, "cifar100")[0] for i in range(4)] == [2, 2, 1, None]
  assert benchmark.best("cifar100") == (2, 93.3433333)


def test_lookup_by_string_and_index(table):
  for index in (0, 6111, 15_624):
    assert table.index(table.archs[index]) == index
    assert table.index(np.int64(index)) == index
    assert table.accuracy(index, "cifar10") == table.accuracies("cifar10")[index]


def test_accuracies_are_read_only(table):
  with pytest.raises(ValueError, match="read-only"):
    table.accuracies("cifar10")[0] = 100.0


@pytest.mark.parametrize("arch", ["|none~0|", "", -1, 15_625])
def test_unknown_architecture(table, arch):
  with pytest.raises(ArchitectureError, match=r"^arch .*(not among|not an index)"):
    table.accuracy(arch, "cifar10")


def test_unknown_dataset_or_split(table):
  with pytest.raises(ConfigError, match=r"dataset 'svhn'.*cifar10"):
    table.accuracy(0, "svhn")
  with pytest.raises(ConfigError, match=r"split 'train'.*valid_12ep"):
    table.best("cifar10", "train")
  with pytest.raises(ConfigError, match=r"split 'valid_12ep'.*cifar100"):
    table.accuracies("cifar100", "valid_12ep")


# Conversion.


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_conversion_round_trip(data, folder, tmp_path, capsys, name):
  out = tmp_path / name
  assert main(["--trust_pickle", str(data / FOLDER), str(out)]) == 0
  assert "3 of 15,625" in capsys.readouterr().out
  converted = tabular.open_benchmark(out, SPACE)
  assert converted.archs == folder.archs
  for index in HELD:
    assert row_of(converted, index) == row_of(folder, index)
  for dataset, split in SPLITS:
    assert converted.best(dataset, split) == folder.best(dataset, split)
    np.testing.assert_array_equal(converted.accuracies(dataset, split), folder.accuracies(dataset, split))
  assert os.listdir(tmp_path) == [name]


def test_conversion_has_the_columns_of_the_table(data, lines, tmp_path):
  out = tmp_path / "out.csv"
  assert main(["--trust_pickle", str(data / FOLDER), str(out)]) == 0
  rows = list(csv.reader(out.open()))
  assert rows[0] == lines[0].split(",")
  assert rows[2][2:] == [""] * len(COLUMNS)
  assert [row[:2] for row in rows[1:]] == [line.split(",")[:2] for line in lines[1:]]


def test_conversion_overwrites_only_when_told(data, tmp_path, capsys):
  out = tmp_path / "out.csv.gz"
  out.write_text("mine")
  assert main(["--trust_pickle", str(data / FOLDER), str(out)]) == 2
  assert "--overwrite" in one_line(capsys)
  assert out.read_text() == "mine"
  assert main(["--trust_pickle", str(data / FOLDER), str(out), "--overwrite"]) == 0
  first = out.read_bytes()
  assert main(["--trust_pickle", str(data / FOLDER), str(out), "--overwrite"]) == 0
  assert out.read_bytes() == first


def test_conversion_of_a_damaged_folder_writes_nothing(data, tmp_path, capsys):
  source = copied_folder(data, tmp_path / "in")
  os.truncate(source / "000011.pickle.pbz2", 20_000)
  (tmp_path / "out").mkdir()
  assert main(["--trust_pickle", str(source), str(tmp_path / "out" / "t.csv.gz")]) == 2
  line = one_line(capsys)
  assert "000011.pickle.pbz2 is truncated" in line
  assert f"SOURCE={source}" in line
  assert "--benchmark" not in line
  assert os.listdir(tmp_path / "out") == []


def test_failed_write_leaves_the_old_table(folder, tmp_path, monkeypatch):
  out = tmp_path / "out.csv"
  out.write_text("mine")

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(BenchmarkError, match=r"OUT=.*No space left"):
    tabular.write_csv(folder, out, overwrite=True)
  assert out.read_text() == "mine"
  assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize(
  ("out", "message"),
  [("t.txt", "end it in .csv.gz"), ("no/t.csv", "writable folder"), (".csv/", "writable")],
)
def test_conversion_refuses_a_bad_out(data, tmp_path, capsys, out, message):
  (tmp_path / ".csv").mkdir()
  assert main(["--trust_pickle", str(data / FOLDER), str(tmp_path / out)]) == 2
  assert message in one_line(capsys)


def test_conversion_refuses_a_table(data, tmp_path, capsys):
  assert main([str(data / "nasbench201.csv.gz"), str(tmp_path / "t.csv.gz")]) == 2
  assert "already a table" in one_line(capsys)


# Bad input: each is one line that names the flag, the path and a fix.


def one_line(capsys):
  text = capsys.readouterr().err
  assert text.count("\n") == 1, text
  return text


def copied_folder(data, target):
  target.mkdir()
  for file in (data / FOLDER).iterdir():
    (target / file.name).write_bytes(file.read_bytes())
  return target


def test_paths_that_are_no_benchmark(data, tmp_path):
  benchmark_refused(tmp_path / "absent.csv", "no such file or folder")
  benchmark_refused(tmp_path, "a folder without meta.pickle.pbz2")
  benchmark_refused(data, f"give the folder .*{FOLDER}")
  with pytest.raises(BenchmarkError, match=r"^--benchmark=: an empty path; give a file, 'none'.*nb201"):
    tabular.open_benchmark("", SPACE)
  benchmark_refused(data / "nasbench101_20.json", "lacks the columns index")
  benchmark_refused(data / "cifar10_subset_index.csv.gz", "lacks the columns index")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "an empty file"),
    (b"\x80\x04]\x94.", "bare pickle"),
    (b"PK\x03\x04torch", "PyTorch archive"),
    (b"\x1f\x8b\x08\x00", "damaged gzip"),
    (b"\x1f\x8bnot gzip at all", "damaged gzip"),
    (b"\xff\xfe\x00binary", "not a table"),
    (b"index,arch\n", "lacks the columns cifar10_test"),
    (b"\n", "lacks the columns"),
    (b"x" * 200_000, "lacks the columns"),
    (b"BZh9 no bzip2", "not a NATS-Bench file"),
    (bz2.compress(b"no pickle"), "not a NATS-Bench file"),
    (bz2.compress(pickle.dumps([1, 2])), "not a NATS-Bench file"),
    (bz2.compress(pickle.dumps({"meta_archs": []})), "not a NATS-Bench file"),
    (bz2.compress(pickle.dumps({"a": "b" * 10_000}))[:-20], "truncated"),
  ],
)
def test_files_that_are_no_benchmark(tmp_path, content, message):
  path = tmp_path / "file.pickle.pbz2"
  path.write_bytes(content)
  benchmark_refused(path, message)


class Evil:
  """Opening its pickle makes a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), "w")


def test_pickles_are_opened_only_if_called_so_and_trusted(data, tmp_path, capsys):
  made = tmp_path / "made"
  named, other = tmp_path / "NATS.pickle.pbz2", tmp_path / "table.csv"
  for path in (named, other):
    bz2_pickle(path, Evil(made))
  with pytest.raises(BenchmarkError, match=r"^--benchmark=.*runs whatever code it holds; give --trust_pickle"):
    tabular.open_benchmark(named, SPACE)
  benchmark_refused(other, "a bzip2 file that is not called")
  with pytest.raises(BenchmarkError, match="--trust_pickle"):
    tabular.open_benchmark(data / FOLDER, SPACE)
  assert main([str(data / FOLDER), str(tmp_path / "t.csv")]) == 2
  assert "--trust_pickle" in one_line(capsys)
  assert not made.exists()
  with pytest.raises(BenchmarkError):
    tabular.open_benchmark(named, SPACE, trust_pickle=True)
  assert made.exists()  # the test can fail


def test_truncated_files(data, tmp_path):
  packed = (data / "nasbench201.csv.gz").read_bytes()
  path = tmp_path / "t.csv.gz"
  for length in (20, 1_000, len(packed) // 2, len(packed) - 1):
    path.write_bytes(packed[:length])
    benchmark_refused(path, "truncated")
  flipped = bytearray(packed)
  flipped[len(packed) // 2] ^= 0xFF
  path.write_bytes(flipped)
  with pytest.raises(BenchmarkError):
    tabular.open_benchmark(path, SPACE)
  folder = copied_folder(data, tmp_path / "cut")
  os.truncate(folder / "000011.pickle.pbz2", 20_000)
  benchmark = tabular.open_benchmark(folder, SPACE, trust_pickle=True)
  assert benchmark.accuracy(0, "cifar10") > 85
  with pytest.raises(BenchmarkError, match=r"^--benchmark=.*000011.pickle.pbz2 is truncated"):
    benchmark.accuracy(11, "cifar10")
  os.truncate(folder / "meta.pickle.pbz2", 20_000)
  benchmark_refused(folder, "meta.pickle.pbz2 is truncated")
  (folder / "meta.pickle.pbz2").write_bytes(b"")
  benchmark_refused(folder, "meta.pickle.pbz2 is truncated")


def test_rows_of_another_architecture(data, tmp_path):
  """Files under each other's names."""
  folder = copied_folder(data, tmp_path / "in")
  (folder / "000011.pickle.pbz2").write_bytes((folder / "000284.pickle.pbz2").read_bytes())
  benchmark = tabular.open_benchmark(folder, SPACE, trust_pickle=True)
  assert benchmark.accuracy(284, "cifar10") > 0
  with pytest.raises(BenchmarkError, match=r"000011.pickle.pbz2 holds the results of .*, not of "):
    benchmark.accuracy(11, "cifar10")
  single = tabular.open_benchmark(single_file(data, tmp_path / "one.pickle.pbz2"), SPACE, trust_pickle=True)
  assert single.accuracy(11, "cifar10") > 0


def test_another_space(data, tmp_path):
  size = [f"{a}:{b}:8:16:64" for a in (8, 16) for b in (8, 16)]
  meta = {"meta_archs": size, "total_archs": 4, "arch2infos": None, "evaluated_indexes": set()}
  bz2_pickle(tmp_path / "meta.pickle.pbz2", meta)
  benchmark_refused(tmp_path, "another space than nb201, such as '8:8:8:16:64'")
  meta |= {"meta_archs": size, "arch2infos": {}}
  benchmark_refused(bz2_pickle(tmp_path / "one.pickle.pbz2", meta), "another space than nb201")
  meta["meta_archs"] = ["|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"]
  bz2_pickle(tmp_path / "meta.pickle.pbz2", meta)
  benchmark_refused(tmp_path, "1 architectures where NAS-Bench-201 has 15,625")


def test_folder_without_results(data, tmp_path):
  meta = (data / FOLDER / "meta.pickle.pbz2").read_bytes()
  (tmp_path / "meta.pickle.pbz2").write_bytes(meta)
  benchmark_refused(tmp_path, "holds the list of architectures but no results")


def swapped(lines):
  return [lines[0], lines[2], lines[1], *lines[3:]]


def edited(old, new):
  """Changes the first architecture's line."""
  return lambda lines: [lines[0], lines[1].replace(old, new), *lines[2:]]


def repeated(lines):
  return [*lines[:2], "1," + lines[1].split(",", 1)[1], *lines[3:]]


def renumbered(lines):
  """The first two rows in the wrong order, as some sorted tables have them."""
  first, second = (line.split(",", 1)[1] for line in lines[1:3])
  return [lines[0], f"0,{second}", f"1,{first}", *lines[3:]]


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda lines: lines[:1], "0 architectures"),
    (lambda lines: lines[:1000], "999 architectures where"),
    (lambda lines: [*lines[:1000], lines[1000][:90]], "line 1001 has .* of 11 fields"),
    (lambda lines: [*lines, lines[-1]], "more rows"),
    (swapped, "line 2 has index '1' where 0"),
    (repeated, "occurs twice"),
    (edited("85.86", "good"), "line 2 .* no number"),
    (edited("85.86", "185."), "line 2 .* 0..100"),
    (edited("85.86333333", "inf"), "line 2 .* inf"),
    (edited("0.129306", "-1"), "line 2 .* from 0 up"),
    (edited("+", ";"), "another space"),
    (edited("avg_pool_3x3", "max_pool_3x3"), "another space"),
    (renumbered, "index 0 is .*, which NAS-Bench-201 counts as 1; number the rows"),
    (lambda lines: [lines[0].replace("cost_12ep_s", "cost"), *lines[1:]], "columns cost_12ep_s;"),
  ],
)
def test_damaged_tables(lines, tmp_path, damage, message):
  path = tmp_path / "t.csv"
  path.write_text("\n".join(damage(lines)) + "\n")
  benchmark_refused(path, message)


def test_fractions_are_not_percent(lines, tmp_path):
  rows = [line.split(",") for line in lines]
  for row in rows[1:]:
    row[2] = str(float(row[2]) / 100)
  path = tmp_path / "t.csv"
  path.write_text("\n".join(map(",".join, rows)))
  benchmark_refused(path, "cifar10_test holds fractions")


def test_harmless_variants_of_a_table(table, lines, tmp_path):
  """A byte order mark, Windows line ends, other column order, a further column, blank lines at the end, no .gz name."""
  rows = [line.split(",") for line in lines]
  text = "\r\n".join(",".join([*row[::-1], "note"]) for row in rows) + "\r\n\r\n\n"
  path = tmp_path / "t.dat"
  path.write_bytes(gzip.compress(text.encode("utf-8-sig"), 1))
  assert row_of(tabular.open_benchmark(path, SPACE), 77) == row_of(table, 77)


# Imports.


def test_heavy_packages_stay_out(data):
  code = """
import sys
import jaxnas.tabular as tabular
heavy = {"nats_bench", "rich", "pandas", "torch", "tensorflow"}
assert not heavy & sys.modules.keys(), "import"
from jaxnas import spaces
space = spaces.get("nb201")
heavy -= {"rich"}  # which flax imports
tabular.open_benchmark(None, space).rank(0, "cifar10")
tabular.open_benchmark(sys.argv[1], space).rank(0, "cifar10")
assert not heavy & sys.modules.keys(), "table"
tabular.open_benchmark(sys.argv[2], space, trust_pickle=True).rank(0, "cifar10")
assert heavy & sys.modules.keys() == {"nats_bench"}, "folder"
"""
  paths = [str(data / "nasbench201.csv.gz"), str(data / FOLDER)]
  subprocess.run([sys.executable, "-W", "error", "-c", code, *paths], check=True)


def test_missing_package_is_one_line(data, monkeypatch):
  monkeypatch.setitem(sys.modules, "nats_bench", None)
  with pytest.raises(BenchmarkError, match="pip install nats_bench"):
    nats.read_nats(data / FOLDER)


def test_command_line(data, tmp_path):
  run = [sys.executable, "-m", "jaxnas.tabular"]
  result = subprocess.run([*run, "--help"], capture_output=True, text=True, check=True)
  assert "SOURCE" in result.stdout
  assert "pickles" in result.stdout
  command = [*run, str(data / "README.md"), str(tmp_path / "t.csv")]
  result = subprocess.run(command, capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1
  assert "Traceback" not in result.stderr
