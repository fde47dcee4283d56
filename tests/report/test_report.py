"""The work directory under kills, full disks and other runs; tables, pictures and the report."""

import base64
import io
import json
import logging
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import png_size, python

from jaxnas import report
from jaxnas.algorithms import tenas_plots
from jaxnas.errors import ArchitectureError, WorkdirError
from jaxnas.files import read_json
from jaxnas.spaces import cell_drawing
from jaxnas.workdir import Workdir, provenance

CONFIG = {"seed": 0, "batch": 72, "lr": float("inf"), "tenas": {"repeats": 3}, "workdir": "a"}
EDGES = ["1←0", "2←0", "2←1", "3←0", "3←1", "3←2"]
OPS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
CELL = [(0, 1, "nor_conv_3x3"), (0, 2, "nor_conv_3x3"), (1, 2, "nor_conv_1x1"),
        (0, 3, "skip_connect"), (1, 3, "none"), (2, 3, "avg_pool_3x3")]  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
  with Workdir.open(tmp_path / "run", CONFIG) as opened:
    yield opened


def one_line(error) -> str:
  assert "\n" not in str(error.value)
  return str(error.value)


def history(cells=1, rounds=3):
  """Round r prunes op r of every edge; the last op is kept."""
  return [
    {
      "round": r,
      "candidates": [[c, e, o] for c in range(cells) for e in range(6) for o in range(r, 5)],
      "cond_before": [300.0 / r, 200.0 / r, 250.0 / r],
      "regions_before": [900 - r, 880, 910],
      "pruned": [[c, e, r] for c in range(cells) for e in range(6)],
    }
    for r in range(1, rounds + 1)
  ]


# The work directory.


def test_records_round_trip_with_non_finite_floats_and_arrays(workdir):
  record = {"arch": "|none~0|", "x": [math.nan, math.inf, -math.inf, 0.1], "n": np.int64(3)}
  workdir.append({**record, "y": jnp.arange(2), "z": np.float32(0.5)})
  line = (workdir.path / "scores.jsonl").read_text()
  json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
  (back,) = workdir.records()
  assert math.isnan(back["x"][0])
  assert back["x"][1:] == [math.inf, -math.inf, 0.1]
  assert (back["n"], back["y"], back["z"]) == (3, [0, 1], 0.5)


def test_a_record_that_is_not_json_writes_nothing(workdir):
  with pytest.raises(TypeError, match="object"):
    workdir.append({"a": 1, "b": object()})
  assert workdir.records() == []


def test_continues_after_a_cut_at_every_byte_of_the_last_line(tmp_path):
  path = tmp_path / "run"
  with Workdir.open(path, CONFIG) as workdir:
    workdir.append({"i": 0})
    workdir.append({"i": 1, "x": math.inf})
  scores = path / "scores.jsonl"
  whole = scores.read_bytes()
  first = whole.index(b"\n") + 1
  for cut in range(first, len(whole)):
    scores.write_bytes(whole[:cut])
    with Workdir.open(path, CONFIG) as workdir:
      assert workdir.resumed
      assert workdir.records() == [{"i": 0}]
      workdir.append({"i": 1, "x": math.inf})
    assert scores.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
  with Workdir.open(tmp_path, CONFIG) as workdir:
    for i in range(3):
      workdir.append({"i": i})
  scores = tmp_path / "scores.jsonl"
  damaged = scores.read_bytes().replace(b'{"i": 1}', b'{"i": 1')
  scores.write_bytes(damaged)
  with pytest.raises(WorkdirError, match="line 2 of") as error:
    Workdir.open(tmp_path, CONFIG)
  one_line(error)
  assert scores.read_bytes() == damaged


def test_other_settings_are_refused_and_listed(tmp_path):
  with Workdir.open(tmp_path, CONFIG) as first:
    assert not first.resumed
    first.append({"i": 0})
  other = {**CONFIG, "seed": 1, "tenas": {"repeats": 5}, "new": "x", "workdir": "b"}
  del other["batch"]
  with pytest.raises(WorkdirError) as error:
    Workdir.open(tmp_path, other)
  text = one_line(error)
  for part in (
    "--seed: was 0, now 1",
    "--tenas.repeats: was 3, now 5",
    "--batch: was 72, now not set",
    '--new: was not set, now "x"',
    "same flags",
    "another --workdir",
  ):
    assert part in text
  assert "--lr" not in text
  assert "--workdir: was" not in text
  with Workdir.open(tmp_path, {**CONFIG, "workdir": "b"}) as again:  # The lock was let go.
    assert again.resumed


def test_settings_of_a_run_that_computed_nothing_bind_nobody(tmp_path):
  Workdir.open(tmp_path, CONFIG).close()
  other = {**CONFIG, "seed": 1}
  with Workdir.open(tmp_path, other) as again:
    assert not again.resumed and read_json(again.path / "config.json")["config"]["seed"] == 1
    again.append({"i": 0})
  with pytest.raises(WorkdirError, match="--seed: was 1, now 0"):
    Workdir.open(tmp_path, CONFIG)
  with Workdir.open(tmp_path, CONFIG, ignore=("seed",)) as extended:
    assert extended.resumed and read_json(extended.path / "config.json")["config"]["seed"] == 0


def test_a_refusal_names_the_changed_settings_first_and_not_all(tmp_path):
  with Workdir.open(tmp_path, {"seed": 1}) as folder:
    folder.append({"i": 0})
  with pytest.raises(WorkdirError, match=r"\(--seed: was 1, now 2; --a0: was not set, now 0; .*; 5 more\)") as caught:
    Workdir.open(tmp_path, {"seed": 2, **{f"a{i}": i for i in range(12)}})
  assert str(caught.value).count("not set") == 7


def test_settings_that_a_run_lacks_bind_a_later_one(tmp_path):
  """A run of proxies with settings of their own, extended by others and by them again."""
  with Workdir.open(tmp_path, {"proxies": ["a"]}) as folder:
    folder.append({"i": 0})
  how = {"ignore": ("proxies",), "may_lack": True}
  Workdir.open(tmp_path, {"proxies": ["a", "b"], "b_size": 3}, **how).close()
  Workdir.open(tmp_path, {"proxies": ["a"]}, **how).close()
  with pytest.raises(WorkdirError, match="--b_size: was 3, now 5"):
    Workdir.open(tmp_path, {"proxies": ["b"], "b_size": 5}, **how)
  Workdir.open(tmp_path, {"proxies": ["b"], "b_size": 3}, **how).close()


def test_a_folder_that_is_removed_while_running(tmp_path):
  with Workdir.open(tmp_path / "run", CONFIG) as folder:
    folder.append({"i": 0})
    shutil.rmtree(folder.path)
    with pytest.raises(WorkdirError, match="was removed while the run was writing to it"):
      folder.append({"i": 1})


@pytest.mark.parametrize("name", ["scores.jsonl", ".lock", "log"])
def test_links_that_somebody_prepared_are_not_followed(tmp_path, name):
  folder, target = tmp_path / "run", tmp_path / "mine"
  folder.mkdir()
  target.write_text("mine")
  (folder / name).symlink_to(target)
  with pytest.raises(WorkdirError, match=name):
    Workdir.open(folder, CONFIG)
  assert target.read_text() == "mine"
  (folder / name).unlink()
  (folder / ".config.json.part").symlink_to(target)
  Workdir.open(folder, CONFIG).close()
  assert target.read_text() == "mine"
  assert sorted(p.name for p in folder.iterdir()) == [".lock", "config.json", "log", "scores.jsonl"]


def test_provenance_does_not_count_as_a_setting(tmp_path):
  Workdir.open(tmp_path, CONFIG).close()
  file = tmp_path / "config.json"
  saved = json.loads(file.read_text())
  versions = {"jax", "jaxlib", "flax", "numpy", "jaxnas", "python", "revision"}
  machine = {"os", "date", "platform", "device_kind", "device_count"}
  assert saved["provenance"].keys() >= versions | machine
  file.write_text(json.dumps({**saved, "provenance": {"jax": "0.0"}}))
  Workdir.open(tmp_path, CONFIG).close()


def test_provenance_without_git(monkeypatch):
  monkeypatch.setenv("PATH", "")
  assert provenance()["revision"] is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}'])
def test_a_foreign_config_is_refused(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(WorkdirError, match=r"config\.json") as error:
    Workdir.open(tmp_path, CONFIG)
  one_line(error)


def test_scores_of_unknown_settings_are_refused(tmp_path):
  (tmp_path / "scores.jsonl").write_text('{"i": 0}\n')
  with pytest.raises(WorkdirError, match=r"no config\.json"):
    Workdir.open(tmp_path, CONFIG)


def test_a_second_run_in_the_folder_is_told_the_pid(workdir):
  with pytest.raises(WorkdirError, match=f"in use by another run \\(pid {os.getpid()}\\)") as error:
    Workdir.open(workdir.path, CONFIG)
  one_line(error)


def test_a_killed_run_lets_go_and_keeps_its_scores(tmp_path):
  code = (
    "import sys, time\n"
    "from jaxnas.workdir import Workdir\n"
    "w = Workdir.open(sys.argv[1], {'seed': 0})\n"
    "w.append({'i': 0})\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
  )
  child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
  try:
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(WorkdirError, match=f"pid {child.pid}"):
      Workdir.open(tmp_path, {"seed": 0})
  finally:
    child.send_signal(signal.SIGKILL)
    child.communicate()
  with Workdir.open(tmp_path, {"seed": 0}) as workdir:
    assert workdir.records() == [{"i": 0}]


@pytest.fixture
def small_disk():
  """Lets no file grow past so many bytes: a write stops in the middle, as on a full disk."""
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  yield lambda bytes_: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, old[1]))
  resource.setrlimit(resource.RLIMIT_FSIZE, old)
  signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_no_half_line_and_no_half_file(workdir, small_disk):
  workdir.append({"i": 0})
  workdir.write_json("result.json", {"old": True})
  size = (workdir.path / "scores.jsonl").stat().st_size
  small_disk(size + 5)
  with pytest.raises(WorkdirError, match="free some space") as failed_append:
    workdir.append({"i": 1})
  with pytest.raises(WorkdirError, match="free some space"):
    workdir.write_text("result.json", "x" * 1000)
  small_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
  one_line(failed_append)
  assert (workdir.path / "scores.jsonl").stat().st_size == size
  assert read_json(workdir.path / "result.json") == {"old": True}
  assert not list(workdir.path.glob(".*.part"))
  workdir.append({"i": 2})
  assert workdir.records() == [{"i": 0}, {"i": 2}]


def test_a_file_in_the_folders_place(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(WorkdirError, match="another --workdir") as error:
      Workdir.open(path, CONFIG)
    one_line(error)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(os, "open", refuse)  # A read-only folder does not stop root.
  with pytest.raises(WorkdirError, match=r"Permission denied.*that can be written") as error:
    Workdir.open(tmp_path, CONFIG)
  one_line(error)


def test_log(workdir):
  logger = logging.Logger("search")
  logger.addHandler(workdir.log)
  logger.warning("κ is large")
  assert "WARNING search: κ is large" in (workdir.path / "log").read_text(encoding="utf-8")


# Progress.


def test_plain_progress_is_throttled_and_knows_the_rate(monkeypatch):
  now = 100.0
  monkeypatch.setattr("time.monotonic", lambda: now)
  out = io.StringIO()
  with report.Progress(100, "kernels", label="round 1", stream=out) as progress:
    progress.advance(20, earlier=True)
    for _ in range(40):
      now += 0.5
      progress.advance(1)
  lines = out.getvalue().splitlines()
  assert lines[0] == "round 1: 30/100 kernels, 2 kernels/s, 0:35 left"
  assert len(lines) == 4 + 1  # 20 seconds, a line every 5, and the last.
  assert lines[-1] == "round 1: 60/100 kernels in 0:20, 2 kernels/s"


def test_silent_progress_and_stopped_progress():
  out = io.StringIO()
  with report.Progress(1, "kernels", stream=out, enabled=False, interval=0) as progress:
    progress.advance()
  assert out.getvalue() == ""
  with pytest.raises(KeyError), report.Progress(9, "kernels", stream=out):
    raise KeyError  # refused before anything was done: the error alone is said
  assert out.getvalue() == ""
  progress = report.Progress(9, "kernels", stream=out)
  progress.done = 1
  with pytest.raises(KeyError), progress:
    raise KeyError
  assert out.getvalue().startswith("stopped at 1/9 kernels")


def test_the_first_rate_does_not_count_compilation(monkeypatch):
  now = 100.0
  monkeypatch.setattr("time.monotonic", lambda: now)
  out = io.StringIO()
  with report.Progress(20, "kernels", stream=out) as progress:
    progress.note("compiling")
    now += 60
    progress.note("")
    now += 6
    progress.note("epoch 1")
    now += 6
    progress.advance(6)
  lines = out.getvalue().splitlines()
  assert lines[:3] == [
    "0/20 kernels, compiling", "0/20 kernels, estimating, epoch 1", "6/20 kernels, 0.5 kernels/s, 0:28 left, epoch 1"
  ]  # fmt: skip


def test_long_silence_is_broken(monkeypatch):
  monkeypatch.setattr("jaxnas.report.progress.SILENCE", 0.0)
  out = io.StringIO()
  with report.Progress(20, "kernels", stream=out, interval=0) as progress:
    progress.note("compiling")
    time.sleep(1.3)
    progress.advance(20)
  assert out.getvalue().splitlines().count("0/20 kernels, compiling") == 2


def test_what_is_noted_first_is_shown_at_once():
  out = io.StringIO()
  with report.Progress(9, "kernels", stream=out) as progress:
    progress.note("compiling")
    progress.note("")
    progress.advance()
  lines = out.getvalue().splitlines()
  assert lines[0] == "0/9 kernels, compiling" and len(lines) == 2


def test_bar_on_a_terminal(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  monkeypatch.setenv("TERM", "xterm")
  out = Terminal()
  with report.Progress(4, "kernels", label="[x]", stream=out) as progress:
    progress.advance(4)
  assert "\x1b[" in out.getvalue()
  assert "[x]: 4/4 kernels in 0:00" in out.getvalue().splitlines()[-1]


@pytest.mark.parametrize(("seconds", "text"), [(6.6, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_format_duration(seconds, text):
  assert report.format_duration(seconds) == text


# Tables.


@pytest.mark.parametrize(
  ("values", "text"),
  [([93.4, 94.4], "93.9 ± 0.7"), ([93.9], "93.9"), ([], "-"), ([math.nan], "-"),
   ([math.nan, 1, 3], "2.0 ± 1.4"), ([1, math.inf], "inf"), ([math.inf, -math.inf], "nan")],
)  # fmt: skip
def test_mean_std(values, text):
  assert report.mean_std(values) == text


def test_text_table_is_aligned():
  table = report.text_table(["arch", "acc"], [["a", 93.9], ["long", "5.0 ± 0.1"], ["b", None]])
  assert table == ("arch        acc\n----  ---------\na          93.9\nlong  5.0 ± 0.1\nb             -\n")


def test_markdown_table_keeps_its_columns_with_architecture_strings():
  arch = "|none~0|+|none~0|none~1|"
  lines = report.markdown_table(["arch", "κ"], [[arch, 1.5], [f"`{arch}`", 2]]).splitlines()
  assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
  assert len({len(line) for line in lines}) == 1
  assert lines[1].endswith("--: |")
  assert r"\|none\~0\|" in lines[2]
  assert r"`\|none~0\|" in lines[3]


def test_tables_refuse_ragged_rows():
  with pytest.raises(ValueError, match="2 cells under 1 headings"):
    report.text_table(["a"], [[1, 2]])


# Pictures.


def test_pruning_history_says_when_each_op_went():
  found = tenas_plots._pruned_in(history())
  assert found[0, 5, 1] == 1
  assert found[0, 5, 3] == 3
  assert found[0, 5, 4] is None
  assert (0, 0, 0) not in found


@pytest.mark.parametrize("bad", [None, math.inf, -1.0])
def test_pruning_history_is_drawn(tmp_path, bad):
  rounds = history(cells=2 if bad is None else 1)
  if bad is not None:
    for entry in rounds:
      entry["cond_before"] = [bad] * 3
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    names = {"edge_names": EDGES, "op_names": OPS}
    file = tenas_plots.plot_pruning_history(rounds, tmp_path / "h.png", **names, title="κ")
  assert min(png_size(file)) > 500


def test_an_empty_history_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no round"):
    tenas_plots.plot_pruning_history([], tmp_path / "h.png", edge_names=EDGES, op_names=OPS)


@pytest.mark.parametrize("values", [[1.0, 9.0, 3.0], [5.0], [2.0, 0.0, -1e-9, math.nan], [0.0]])
def test_spectrum_is_drawn(tmp_path, values):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    file = tenas_plots.plot_spectrum({"a": np.array(values), "b": np.ones(4)}, tmp_path / "s.png")
    tenas_plots.plot_spectrum({"a": np.array(values)}, tmp_path / "s.png")
  assert min(png_size(file)) > 500


def test_pictures_are_the_same_bytes_again(tmp_path):
  one = cell_drawing.draw_cell(CELL, tmp_path / "1.png", title="cell").read_bytes()
  assert one == cell_drawing.draw_cell(CELL, tmp_path / "2.png", title="cell").read_bytes()
  assert one != cell_drawing.draw_cell(CELL[:5], tmp_path / "2.png", title="cell").read_bytes()


def test_labels_of_the_nb201_cell_do_not_overlap():
  at = {i: 1.9 * i for i in range(4)}
  straight, arcs = cell_drawing._bend(CELL, [0, 1, 2, 3], at)
  assert [edge[:2] for edge in straight] == [(0, 1), (1, 2), (2, 3)]
  middles = [((at[s] + at[t]) / 2, 0.0) for s, t, _ in straight]
  middles += [((arc.left + arc.right) / 2, arc.height) for arc in arcs]
  assert len(middles) == 6
  for i, (x, y) in enumerate(middles):
    assert all(abs(x - u) > 1.4 or abs(y - v) > 0.35 for u, v in middles[:i])


def test_an_arc_passes_its_height_and_ends_at_its_nodes():
  arc = cell_drawing._Arc(0.0, 4.0, 1.2, 1, "skip_connect")
  a, b, c, d = cell_drawing._curve(arc)
  np.testing.assert_allclose((a + 3 * b + 3 * c + d) / 8, (2.0, 1.2), atol=0.01)
  np.testing.assert_allclose([np.hypot(*a), np.hypot(*(d - (4, 0)))], 0.26, atol=0.01)


def test_a_cell_in_a_circle_or_empty_is_refused(tmp_path):
  with pytest.raises(ArchitectureError, match="circle"):
    cell_drawing.draw_cell([("a", "b", "x"), ("b", "a", "x")], tmp_path / "c.png")
  with pytest.raises(ArchitectureError, match="got none"):
    cell_drawing.draw_cell([], tmp_path / "c.png")


# The report.


def test_report_is_self_contained_and_escaped(workdir):
  cell_drawing.draw_cell(CELL, workdir.path / "cell.png")
  page = report.write_report(
    workdir,
    title="<b>κ & co</b>",
    summary=[("arch", "<script>alert(1)</script>")],
    sections=[
      report.Section("Result", ("a<b", "n"), [["x & y", 1.5]], text='"quoted"'),
      report.Section("Pictures", images=[report.Image("cell.png", 'a "cell" <i>')], code="<script>", folded=True),
    ],
  ).read_text(encoding="utf-8")
  assert "http" not in page
  assert page.count("<script>") == 1 and "alert(1)</script>" not in page  # the page's own, which sorts tables
  assert "<i>" not in page
  assert "<title>&lt;b&gt;κ &amp; co&lt;/b&gt;</title>" in page
  assert '<td data-title="a&lt;b">x &amp; y</td><td class="number" data-title="n">1.5</td>' in page
  sources = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]*)', page)
  assert len(sources) == 1
  embedded = base64.b64decode(sources[0].removeprefix("data:image/png;base64,"), validate=True)
  assert embedded == (workdir.path / "cell.png").read_bytes()


def test_report_with_a_missing_picture_is_not_written(workdir):
  pictures = report.Section("Pictures", images=[report.Image("gone.png", "")])
  with pytest.raises(WorkdirError, match=r"gone\.png") as error:
    report.write_report(workdir, title="t", summary=[], sections=[pictures])
  one_line(error)
  assert not (workdir.path / "report.html").exists()


def test_the_room_imports_no_drawing_package():
  code = (
    "import sys, jaxnas.report\nprint([m for m in ('matplotlib', 'rich', 'tensorflow', 'torch') if m in sys.modules])"
  )
  assert python(code).stdout == "[]\n"
