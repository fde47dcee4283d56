"""What an empirical neural tangent kernel costs: `jaxnas.ntk`, neural_tangents, PyTorch's `torch.func`.

  python experiments/benchmark_ntk.py --torch_python=PATH/bin/python --out=FILE.md --plot=FILE.png

An MLP, a CNN, a Transformer block and ResNet-18 with GroupNorm (`ntk_networks.py`); the mean over classes [N, N] and,
of the first three, the full kernel [N, N, K, K]. All sides see the same weights and inputs in float32 and run in
turn; neural_tangents is that of the bridge, PyTorch (`pytorch_ntk.py`, three recipes) runs in a process of its own.
Every value is compared with jaxnas's in float64, and the program stops where half of the entries differ, or one by
much: a ReLU of a deep network whose input is nearly 0 may fall on the other side in float32, and changes one sample's
entries. CPU seconds are medians of runs after the first; temporary MiB are what XLA plans beside arguments and
result. A side that would need more memory or operations than the flags allow is left out, with a line. Quote figures
of an idle machine only.
"""

import functools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ntk_networks import CLASSES, MODELS, Model, conv

from jaxnas import figures, ntk, report

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(MODELS), f"which of {', '.join(MODELS)}")
flags.DEFINE_string("torch_python", sys.executable, "path of a Python that has torch")
flags.DEFINE_integer("runs", 5, "runs of which a median is taken, after the first", lower_bound=1)
flags.DEFINE_float("gib", 6, "sides that need more memory are left out", lower_bound=0)
flags.DEFINE_float("tflop", 2, "and those with more operations", lower_bound=0)
flags.DEFINE_bool("blocks", False, "also the CNN's kernel of many samples, whole and by `batch_size`")
flags.DEFINE_bool("parts", False, "also passes of the CNN alone, which its kernel is made of")
flags.DEFINE_bool("toy", False, "tiny networks and few samples, to see that everything runs")
flags.DEFINE_string("out", None, "Markdown file for the table")
flags.DEFINE_string("plot", None, "PNG file for the plot")

TOLERANCE = 1e-4  # of the kernel's largest entry, for the median of the differences
LARGEST = 1e-2  # and for the largest of them
TITLE = ["model", "kernel", "side", "CPU s", "wall s", "temporary MiB", "compile, CPU s", "differs by"]
RECIPES = ("jacobian", "products", "by_class")


class Side(NamedTuple):
  """One way to a kernel: `run()` gives it with the CPU and wall seconds that it took."""

  name: str
  run: Callable[[], tuple[np.ndarray, float, float]]
  temporary: str = ""
  compiled: str = ""


Maker = tuple[str, Callable[[], Side]]  # a side's name, and what prepares it


class TooMuch(Exception):
  """A side that is left out, and why."""


def jax_side(name: str, kernel_fn: Callable, params: Any, x: Any) -> Side:
  """Compiles `kernel_fn(x, None, params)`."""
  begin = time.process_time()
  program = jax.jit(lambda p, x: kernel_fn(x, None, p)).lower(params, x).compile()
  compiled = time.process_time() - begin
  memory: Any = program.memory_analysis()
  check_size(memory.temp_size_in_bytes, (program.cost_analysis() or {}).get("flops", 0.0))

  def run() -> tuple[np.ndarray, float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    kernel = jax.block_until_ready(program(params, x))
    return np.asarray(kernel), time.process_time() - cpu, time.perf_counter() - wall

  return Side(name, run, f"{memory.temp_size_in_bytes / 2**20:.0f}", f"{compiled:.1f}")


def check_size(size: float, operations: float = 0.0) -> None:
  if size > FLAGS.gib * 2**30 or operations > FLAGS.tflop * 1e12:
    raise TooMuch(f"{size / 2**30:.1f} GiB, {operations / 1e12:.1f} TFLOP")


def own_makers(package: Any, model: Model, params: Any, x: Any, axes: tuple) -> Iterator[Maker]:
  """jaxnas's sides, and neural_tangents' where the package is there."""
  for library, prefix, ways in ((ntk, "jaxnas", ("auto", 1, 3)), (package, "neural_tangents", (1, 2, 3))):
    for way in ways if library is not None else ():
      kernel_fn = library.empirical_ntk_fn(model.f, trace_axes=axes, vmap_axes=0, implementation=way)
      name = f"{prefix} {way}"
      yield name, functools.partial(jax_side, name, kernel_fn, params, x)


class Torch:
  """The process of PyTorch for one network."""

  def __init__(self, folder: str, name: str, params: dict[str, np.ndarray], x: np.ndarray):
    exchange, self.result = pathlib.Path(folder, f"{name}.npz"), pathlib.Path(folder, f"{name}.npy")
    arrays: dict[str, Any] = {**params, "x": x}
    np.savez(exchange, **arrays)
    script = pathlib.Path(__file__).with_name("pytorch_ntk.py")
    command = [FLAGS.torch_python, str(script), str(exchange), name, str(self.result)]
    # Threads that spin while they wait would burn the other sides' seconds.
    self.process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )

  def makers(self, form: str, jacobian: int) -> Iterator[Maker]:
    for recipe in RECIPES if form == "trace" else RECIPES[:2]:
      yield f"torch.func {recipe}", functools.partial(self.side, recipe, form, jacobian)

  def side(self, recipe: str, form: str, jacobian: int) -> Side:
    check_size(jacobian if recipe == "jacobian" else 0)
    return Side(f"torch.func {recipe}", functools.partial(self.run, f"{recipe} {form}"))

  def run(self, line: str) -> tuple[np.ndarray, float, float]:
    assert self.process.stdin and self.process.stdout
    self.process.stdin.write(line + "\n")
    self.process.stdin.flush()
    answer = self.process.stdout.readline().split()
    if len(answer) != 2:
      sys.exit(f"torch.func {line}: failed")
    return np.load(self.result), float(answer[0]), float(answer[1])

  def close(self) -> None:
    assert self.process.stdin
    self.process.stdin.close()
    self.process.wait()


def reference(model: Model, params: Any, x: np.ndarray, axes: tuple) -> np.ndarray:
  """The kernel in float64."""
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
    kernel_fn = ntk.empirical_ntk_fn(model.f, axes, vmap_axes=0, implementation="auto")
    return np.asarray(jax.jit(lambda p, x: kernel_fn(x, None, p))(*wide))


def quadratic(name: str) -> bool:
  """Whether a side runs the network for every pair of samples: measured where that ends soon."""
  return name.endswith((" 2", " products"))


def measure(name: str, package: Any, has_torch: bool, folder: str) -> Iterator[list[str]]:
  """The rows of a model, of which a side that is left out has one too."""
  model = MODELS[name].toy() if FLAGS.toy else MODELS[name]
  arrays, x = model.parameters(), model.inputs()
  params = jax.tree.map(jnp.asarray, arrays)
  torch = Torch(folder, name, arrays, x) if has_torch else None
  jacobian = 4 * len(x) * CLASSES * sum(a.size for a in arrays.values())
  for form, axes in (("trace", (-1,)), ("full", ())):
    if name == "resnet18" and form == "full":
      continue
    makers = [*own_makers(package, model, params, jnp.asarray(x), axes)]
    makers += torch.makers(form, jacobian) if torch else []
    sides, skipped = [], []
    for side_name, make in makers:
      try:
        if quadratic(side_name) and name != "transformer" and not FLAGS.toy:
          raise TooMuch("a pass for every pair of samples")
        sides.append(make())
      except TooMuch as reason:
        skipped.append([name, form, side_name, "left out", "", str(reason), "", ""])
    yield from compare(name, form, sides, reference(model, params, x, axes))
    yield from skipped
  if torch:
    torch.close()


def compare(name: str, form: str, sides: list[Side], exact: np.ndarray) -> Iterator[list[str]]:
  """Runs the sides in turn."""
  seconds: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
  differences = {}
  for turn in range(FLAGS.runs + 1):
    for side in sides:
      kernel, cpu, wall = side.run()
      if turn:
        seconds[side.name].append((cpu, wall))
        continue
      print(f"{name}, {form}, {side.name}: {cpu:.2f} CPU s", file=sys.stderr, flush=True)
      if kernel.shape != exact.shape:
        sys.exit(f"{name}, {form}: {side.name} has shape {kernel.shape}, expected {exact.shape}")
      apart = np.abs(kernel - exact) / np.abs(exact).max()
      differences[side.name] = found = float(apart.max())
      if not (np.median(apart) < TOLERANCE and found < LARGEST):
        sys.exit(f"{name}, {form}: {side.name} differs by {found:.1e} of the largest entry from jaxnas in float64")
  for side in sides:
    cpu, wall = (statistics.median(column) for column in zip(*seconds[side.name], strict=True))
    times = [f"{cpu:.3g}", f"{wall:.3g}"]
    yield [name, form, side.name, *times, side.temporary, side.compiled, f"{differences[side.name]:.0e}"]


def blocks() -> Iterator[list[str]]:
  """Many samples, whole and by blocks."""
  model, size = (MODELS["cnn"].toy()._replace(samples=8), 3) if FLAGS.toy else (MODELS["cnn"], 64)
  model = model if FLAGS.toy else model._replace(samples=1024)
  params, x = jax.tree.map(jnp.asarray, (model.parameters(), model.inputs()))
  sides = []
  for batch_size in (None, size):
    kernel_fn = ntk.empirical_ntk_fn(model.f, vmap_axes=0, batch_size=batch_size)
    sides.append(jax_side(f"jaxnas auto, batch_size={batch_size}", kernel_fn, params, x))
  yield from compare(f"cnn, N={model.samples}", "trace", sides, sides[0].run()[0])


def parts() -> Iterator[list[str]]:
  """A forward pass of all samples, one backward pass an output, and of that the convolutions of equal width alone."""
  model = MODELS["cnn"].toy() if FLAGS.toy else MODELS["cnn"]
  params, x = jax.tree.map(jnp.asarray, (model.parameters(), model.inputs()))

  def backward(x: Any, _: None, params: Any) -> Any:
    def one(x: Any) -> Any:
      out, pullback = jax.vjp(lambda x: model.f(params, x[None])[0], x)
      return jax.vmap(pullback)(jnp.eye(out.size))[0].sum()

    return jax.vmap(one)(x)

  def convolutions(x: Any, _: None, params: Any) -> Any:
    maps = jnp.broadcast_to(x[:, None, ..., :1], (len(x), CLASSES, *x.shape[1:3], model.width))
    maps = maps.reshape(-1, *maps.shape[2:])
    for i in (1, 2, 3):
      maps = conv(maps, params[f"{i}/kernel"])
    return maps.sum()

  sides = {"forward": lambda x, _, params: model.f(params, x), "backward": backward, "its convolutions": convolutions}
  for name, fn in sides.items():
    side = jax_side(name, fn, params, x)
    seconds = [side.run()[1:] for _ in range(FLAGS.runs + 1)][1:]
    cpu, wall = (statistics.median(column) for column in zip(*seconds, strict=True))
    yield ["cnn", "parts", name, f"{cpu:.3g}", f"{wall:.3g}", side.temporary, side.compiled, ""]


def draw(rows: list[list[str]], path: str) -> None:
  """Bars of CPU seconds, a panel a model and kernel."""
  cases = list(dict.fromkeys((r[0], r[1]) for r in rows))
  with figures.own_settings():
    columns = min(2, len(cases))
    figure = figures.new_figure(5 * columns, 2.6 * math.ceil(len(cases) / columns))
    for i, case in enumerate(cases):
      axis = figure.add_subplot(math.ceil(len(cases) / columns), columns, i + 1)
      own = [r for r in rows if (r[0], r[1]) == case and r[4]]  # not those left out
      colours = {"jaxnas": figures.BLUE, "neural_tangents": figures.ORANGE, "torch.func": figures.GREEN}
      names, values = [r[2] for r in own], [float(r[3]) for r in own]
      bars = axis.barh(names[::-1], values[::-1], color=[colours[name.split()[0]] for name in names[::-1]])
      axis.bar_label(bars, [f" {value:.2g}" for value in values[::-1]], fontsize=8)
      axis.set_title(f"{case[0]}, {case[1]}", fontsize=10)
      axis.set_xlabel("CPU s")
      axis.set_xscale("log")
      axis.margins(x=0.2)
      axis.tick_params(axis="x", which="minor", labelbottom=False)
      figures.plain_frame(axis)
      axis.grid(visible=False)
    figures.save_png(figure, path)


def main(argv: list[str]) -> None:
  del argv
  if unknown := set(FLAGS.models) - set(MODELS):
    sys.exit(f"--models={','.join(FLAGS.models)}: unknown {', '.join(sorted(unknown))}; of {', '.join(MODELS)}")
  notes = []
  probe = ["env", FLAGS.torch_python, "-c", "import torch"]  # env: exit code 127 where there is none
  has_torch = subprocess.run(probe, capture_output=True).returncode == 0
  if not has_torch:
    notes.append(f"PyTorch skipped: {FLAGS.torch_python} cannot import torch; give another Python as --torch_python.")
  package = None
  try:
    from jaxnas.ntk import neural_tangents_bridge

    package = neural_tangents_bridge.load()
  except ImportError as error:
    notes.append(f"neural_tangents skipped: {error}.")
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for name in FLAGS.models:
      rows += measure(name, package, has_torch, folder)
  if FLAGS.blocks:
    rows += blocks()
  if FLAGS.parts:
    rows += parts()
  head = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} threads; "
  head += f"load average {os.getloadavg()[0]:.1f}"
  text = "\n\n".join([head, report.markdown_table(TITLE, rows), *notes])
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text + "\n")
  if FLAGS.plot:
    draw([row for row in rows if row[1] != "parts"], FLAGS.plot)


if __name__ == "__main__":
  app.run(main)
