"""Bad inputs, one after the other through the command line: what is said, and whether it is one line that helps.

  python experiments/bad_inputs.py --out=experiments/results/bad_inputs.md      two minutes

Each must end with exit code 2 and one line on standard error that begins with "jaxnas: error:", names the flag and
has the words that stand beside the input in `bad_inputs.json`; no traceback. All run in one process, started as users
start the program but for that; those that set an environment variable have one of their own. The bad files are made in
an empty folder, which is the working directory. Exit code 1 if an input misbehaves. The tests go through the same list.
"""

import bz2
import contextlib
import datetime
import gzip
import io
import json
import os
import pathlib
import pickle
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags
from absl.testing import flagsaver

from jaxnas import main, spaces

_CASES = pathlib.Path(__file__).with_name("bad_inputs.json")
RUN = "--algorithm=score --proxies=params --archs=6111 --score_channels=2 --score_cells=1"  # a good one
LONGEST = 60  # seconds after which an input counts as accepted

_OUT = flags.DEFINE_string("out", "bad_inputs.md", "file for the table")


def cases() -> list[tuple[str, str, list[str]]]:
  """(kind, what a user types after `jaxnas`, words that the answer must have), of all inputs."""
  return [(kind, typed, words) for kind, some in json.loads(_CASES.read_text()).items() for typed, *words in some]


def answers(inputs: Sequence[str], folder: pathlib.Path) -> list[tuple[int, str]]:
  """(exit code, standard error) of each input, started in `folder`, which gets the files that they name."""
  signal.signal(signal.SIGALRM, _too_long)
  with contextlib.chdir(folder):
    make_files()
    return [_answer(shlex.split(typed.replace("RUN", RUN))) for typed in inputs]


def _answer(words: Sequence[str]) -> tuple[int, str]:
  own = dict(word.split("=", 1) for word in words if not word.startswith("-") and "=" in word)
  given = ["--compilation_cache=off", *(word for word in words if word.startswith("-") or "=" not in word)]
  if own:
    command, environment = [sys.executable, "-m", "jaxnas.main", *given], {**os.environ, **own}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST)
    return done.returncode, done.stderr
  error = io.StringIO()
  signal.alarm(LONGEST)
  with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()), flagsaver.flagsaver():
    try:
      code = main._guarded(main._parse(["jaxnas", *given]))
    except SystemExit as leaving:
      code = leaving.code
    except Exception:  # which the program should have caught
      code = 1
      traceback.print_exc(file=error)
  signal.alarm(0)
  return (code if isinstance(code, int) else 1), error.getvalue()


def _too_long(*_: object) -> None:
  raise TimeoutError(f"not refused, it still runs after {LONGEST} s")


def faults(code: int, error: str, words: Sequence[str]) -> list[str]:
  """What is wrong with an answer; empty if nothing is."""
  found = [f"exit code {code}"] if code != 2 else []
  if not error.startswith("jaxnas: error: ") or error.count("\n") != 1 or "Traceback" in error:
    found.append("not one line")
  return found + [f"no {word!r}" for word in words if word not in error]


def table(inputs: Sequence[tuple[str, str, list[str]]], said: Sequence[tuple[int, str]]) -> str:
  """The inputs and what came out, a table a kind."""
  lines = []
  kind = None
  for (group, typed, _), (code, error) in zip(inputs, said, strict=True):
    if group != kind:
      kind = group
      lines += ["", f"## {kind.capitalize()}", "", "| input | exit code | line |", "| --- | --- | --- |"]
    lines.append(f"| {_shown(typed)} | {code} | {_shown(error.strip().removeprefix('jaxnas: error: '))} |")
  return "\n".join(lines)


def _shown(text: str) -> str:
  """A text as a cell of a table: in one line, its bars escaped."""
  text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
  return f"`{text}`".replace("|", "\\|")


def run(argv: Sequence[str]) -> int:
  """Asks all, writes the table; returns the exit code."""
  del argv
  inputs, out = cases(), pathlib.Path(_OUT.value).resolve()
  with tempfile.TemporaryDirectory() as folder:
    said = answers([typed for _, typed, _ in inputs], pathlib.Path(folder))
  said = [(code, error.replace(folder, "FOLDER")) for code, error in said]
  wrong = 0
  for (_, typed, words), (code, error) in zip(inputs, said, strict=True):
    if found := faults(code, error, words):
      wrong += 1
      print(f"jaxnas {typed}\n  {'; '.join(found)}\n  {error.strip()}")
  head = f"""Made by `python experiments/bad_inputs.py --out=experiments/results/bad_inputs.md`

# Bad inputs

{os.cpu_count()} virtual cores, no accelerator, Python {platform.python_version()}, jax {jax.__version__};
{datetime.date.today()}. {len(inputs)} inputs, {wrong} of them not answered by exit code 2 and one line that names the
flag. What the files hold is in the script.
"""
  out.write_text(head + table(inputs, said) + "\n")
  print(f"{len(inputs)} inputs, {wrong} of them misbehave; {out}")
  return 1 if wrong else 0


# The files


def make_files() -> None:
  """What the inputs name: tables, tasks, plugins, flagfiles, data sets and work directories with something wrong."""
  folder = pathlib.Path()
  for name, content in {**_tables(), **_json_files(), **_texts(), **_workdirs()}.items():
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
  (folder / "open_to_all").mkdir()
  (folder / "open_to_all").chmod(0o777)
  (folder / "loop").symlink_to("loop")
  (folder / "victim").write_text("precious\n")
  for name in ("config.json", "scores.jsonl", "log"):
    (folder / f"link_{name.partition('.')[0]}").mkdir()
    (folder / f"link_{name.partition('.')[0]}" / name).symlink_to("../victim")
  for name in ("config.json", "scores.jsonl", "log", ".lock"):
    (folder / f"folder_{name.strip('.').partition('.')[0]}" / name).mkdir(parents=True)
  _damage_runs()


def _tables() -> dict[str, bytes | str]:
  space = spaces.get("nb201")
  head, *rows = gzip.decompress(_packaged_table()).decode().splitlines()
  first, second, third, *_ = rows

  def with_value(value: str) -> str:
    fields = first.split(",")
    return "\n".join([head, ",".join([*fields[:2], value, *fields[3:]]), second])

  swapped = [second.split(",")[1], first.split(",")[1]]
  moved = [
    ",".join([str(i), arch, *row.split(",")[2:]]) for i, (arch, row) in enumerate(zip(swapped, rows, strict=False))
  ]
  return {
    "empty.csv": "",
    "header.csv": head,
    "other_header.csv": "name,accuracy\na,1\n",
    "swapped_rows.csv": "\n".join([head, second, first]),
    "swapped_archs.csv": "\n".join([head, *moved, third]),
    "twice.csv": "\n".join([head, first, first]),
    "short_row.csv": "\n".join([head, first, second[:60]]),
    "text_value.csv": with_value("good"),
    "negative_value.csv": with_value("-1"),
    "infinite_value.csv": with_value("inf"),
    "above_100.csv": with_value("101"),
    "other_arch.csv": "\n".join([head, first.replace("nor_conv_1x1", "sep_conv_1x1")]),
    "zeros.csv": bytes(1000),
    "utf16.csv": "\n".join([head, *rows[:2]]).encode("utf-16"),
    "latin1.csv": "index,arch,é\n".encode("latin-1"),
    "cut.csv.gz": _packaged_table()[:100_000],
    "page.csv": "<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "quotes.csv": head + '\n"0,' + "x" * 200_000,
    "pickle.csv": bz2.compress(pickle.dumps({"evil": space.name})),
    "evil.pickle.pbz2": bz2.compress(pickle.dumps({"evil": 1})),
    "nats/meta.pickle.pbz2": b"no pickle",
    "no_nats/readme.txt": "nothing",
    **_nds_tables(),
  }


def _nds_tables() -> dict[str, str]:
  """Tables of Network Design Spaces of one line or two."""

  def line(space: str, rate: float = 0.05, error: float = 30.0) -> dict[str, Any]:
    ops = spaces.get(space).ops
    nodes = 4 if "darts" in space else 5
    slots, last = [[ops[-1], 0], [ops[-1], 1]] * nodes, list(range(2, nodes + 2))
    genotype = {"normal": slots, "normal_concat": last, "reduce": slots, "reduce_concat": last}
    numbers = {"base_lr": rate, "weight_decay": 5e-5, "epochs": 50, "params": 1, "flops": 1}
    errors = dict.fromkeys(("test_error_final", "test_error_min", "test_error_ep5"), error)
    return {"net": {"width": 32, "depth": 8, "genotype": genotype}, **numbers, **errors}

  lacking = line("nds_enas")
  del lacking["test_error_ep5"]
  files = {
    "nds_enas": [line("nds_enas")],
    "nds_darts": [line("nds_darts")],
    "nds_fixed": [line("nds_darts", 0.0125)],
    "nds_twice": [line("nds_enas"), line("nds_enas")],
    "nds_error": [line("nds_enas", error=101)],
    "nds_lacks": [lacking],
  }
  return {f"{name}.jsonl": "\n".join(map(json.dumps, lines)) for name, lines in files.items()}


def _packaged_table() -> bytes:
  return (pathlib.Path(spaces.__file__).parent / "nb201" / "accuracies.csv.gz").read_bytes()


def _json_files() -> dict[str, str]:
  cell: dict[str, Any] = {"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]}
  pairs = [["sep_conv_3x3", 0], ["sep_conv_3x3", 1]] * 4
  darts = {"normal": pairs, "reduce": pairs, "val_accuracy": 93.0}

  def archs(*entries: Any) -> str:
    return json.dumps({"archs": entries})

  recipe = {
    "linear": {"op": "linear", "input": ["x", "h_prev_0"]},
    "h_new_0": {"op": "activation_tanh", "input": ["linear"]},
  }

  def trained(loss: Any = 4.9, **nodes: Any) -> str:
    runs = [{"status": "OK", "test_loss": loss}]
    return json.dumps({"position": 0, "cell": 0, "recipe": {**recipe, **nodes}, "ptb": runs})

  task = {
    "batchsize": 16,
    "noise": {"type": "gaussian", "noise_level": 0.1},
    **{f"last_channel_l{i}": 1.0 for i in range(3)},
    "feature": {str(i): dict.fromkeys(("sin1d", "sin2d", "dot", "resize", "dot_gaussian")) for i in range(3)},
  }
  return {
    "brackets.json": "[" * 200_000,
    "cut.json": '{"archs": [{"matrix": [[0, 1',
    "empty_archs.json": archs(),
    "no_keys.json": archs({"a": 1}),
    "number.json": "5",
    "nb101_percent.json": archs({**cell, "accuracy": 93.0}),
    "nb101_nan.json": archs({**cell, "accuracy": float("nan")}),
    "nb101_text.json": archs({**cell, "accuracy": "high"}),
    "nb101_twice.json": archs({**cell, "accuracy": 0.9}, {**cell, "accuracy": 0.9}),
    "nb101_op.json": archs({**cell, "ops": ["input", "conv9x9", "output"], "accuracy": 0.9}),
    "nb101_ops.json": archs({**cell, "ops": 7, "accuracy": 0.9}),
    "nb101_matrix.json": archs({**cell, "matrix": [[0, 1], [0]], "accuracy": 0.9}),
    "nb101_loop.json": archs({**cell, "matrix": [[0, 1, 1], [1, 0, 1], [0, 0, 0]], "accuracy": 0.9}),
    "darts_fraction.json": archs({**darts, "val_accuracy": 0.93}),
    "darts_op.json": archs({**darts, "normal": [["conv_9x9", 0], *pairs[1:]]}),
    "darts_source.json": archs({**darts, "reduce": [["sep_conv_3x3", 10**30], *pairs[1:]]}),
    "darts_pairs.json": archs({**darts, "normal": pairs[:3]}),
    "darts_type.json": archs({**darts, "normal": "sep_conv_3x3"}),
    "nlp.jsonl": trained(),
    "nlp_cycle.jsonl": trained(linear={"op": "linear", "input": ["x", "h_new_0"]}),
    "nlp_op.jsonl": trained(linear={"op": "conv_3x3", "input": ["x"]}),
    "nlp_input.jsonl": trained(linear={"op": "linear", "input": ["x", "nobody"]}),
    "nlp_loss.jsonl": trained(loss=-1),
    "task_key.json": json.dumps({**task, "bach": 3}),
    "task_missing.json": json.dumps({"batchsize": 16}),
    "task_noise.json": json.dumps({**task, "noise": {"type": "pink", "noise_level": 0.1}}),
    "task_level.json": json.dumps({**task, "noise": {"type": "gaussian", "noise_level": float("nan")}}),
    "task_huge.json": json.dumps({**task, "last_channel_l0": 10**400}),
    "task_batch.json": json.dumps({**task, "batchsize": 0}),
    "task_unlike.json": json.dumps({**task, "feature": {"0": 1}}),
    "task_text.json": json.dumps({**task, "batchsize": "16"}),
  }


def _texts() -> dict[str, bytes | str]:
  return {
    "syntax.py": "def f(:\n",
    "raises.py": "raise RuntimeError('not today')\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "taken.py": "from jaxnas import registry\nregistry.register('proxy', 'naswot', lambda: 1)\n",
    "nothing.py": "from jaxnas import registry\nregistry.register('proxy', 'nothing', lambda: 1)\n",
    "kind.py": "from jaxnas import registry\nregistry.register('proxies', 'mine', lambda: 1)\n",
    "plugins/json.py": "",
    "latin1.flags": "--workdir=é\n".encode("latin-1"),
    "unknown.flags": "--nonsense=1\n",
    "stray.flags": "tenas\n",
    "data/cifar10/3.0.2/dataset_info.json": "{",
    "tfrecord/cifar10/3.0.2/dataset_info.json": json.dumps({"splits": [{"name": "train", "shardLengths": ["1"]}]}),
    "array/cifar10/3.0.2/dataset_info.json": json.dumps(
      {"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": ["50000"]}]}
    ),
    "nested/cifar10/3.0.2/dataset_info.json": "[" * 200_000,
  }


def _workdirs() -> dict[str, bytes | str]:
  config = json.dumps({"config": {"algorithm": "score"}, "provenance": {}})
  result = {"config": {}, "results": [], "accuracies": []}
  return {
    "file": "no folder",
    "broken/config.json": "{",
    "list/config.json": "[]",
    "text/config.json": '{"config": "tenas"}',
    "latin1/config.json": "é".encode("latin-1"),
    "brackets/config.json": "[" * 200_000,
    "orphan/scores.jsonl": "{}\n",
    "other/config.json": config,
    "other/scores.jsonl": '{"kind": "score"}\n',
    "unfinished/config.json": config,
    "other_set/config.json": json.dumps({"config": {"algorithm": "ranked", "ranked_candidates": "random:99"}}),
    "other_set/scores.jsonl": '{"kind": "score"}\n',
    "broken_result/result.json": "{",
    "old_result/result.json": json.dumps({"config": {}}),
    "list_result/result.json": "[]",
    "brackets_result/result.json": "[" * 200_000,
    "number_result/result.json": json.dumps({**result, "results": 5}),
    "text_result/result.json": json.dumps({**result, "results": ["a"]}),
    "config_result/result.json": json.dumps({**result, "config": 5}),
    "accuracy_result/result.json": json.dumps({**result, "accuracies": 7}),
    "value_result/result.json": json.dumps({**result, "accuracies": ["x"], "results": [{"x": "good"}]}),
  }


def _damage_runs() -> None:
  """Work directories of a run that ended well, each with another damage to its only record."""
  whole = pathlib.Path("whole")
  code, error = _answer(shlex.split(f"{RUN} --workdir=whole"))
  assert code == 0, error
  (line,) = (whole / "scores.jsonl").read_text().splitlines()
  record = json.loads(line)
  damages = {
    "damaged_line": "{broken",
    "damaged_value": json.dumps(record | {"value": "abc"}),
    "damaged_seed": json.dumps({key: value for key, value in record.items() if key != "seed"}),
    "damaged_depth": "[" * 200_000,
    "damaged_list": "[1, 2]",
    "damaged_status": json.dumps(record | {"status": "fine"}),
  }
  for name, text in damages.items():
    shutil.copytree(whole, name)
    (pathlib.Path(name) / "scores.jsonl").write_text(f"{text}\n{line}\n")


if __name__ == "__main__":
  app.run(run)
