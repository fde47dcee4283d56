"""What an accelerator does with the scoring engine: run it whenever a machine can be had.

  python experiments/accelerator.py --out=experiments/results/accelerator.md

First the ceilings of the card. Then scores in float32 beside those that a CPU gave in float64, which are in
accelerator_values.json (made again by --reference, on a CPU). Then NAS-Bench-201 at the benchmark's own size (C=16,
N=5) by kind of proxy: a forward pass, a backward pass, the kernel of frozen statistics, the exact kernel, GenNAS's
regression with weights of each architecture's own; each one architecture after the other ("loop") and many in one
program ("dispatch", see `scoring.Engine`). Last, whole searches of TE-NAS with statistics of the batch.

"Of ceiling" is the time that the card needs at least over the time it took: for the multiply-adds of convolutions
at its rate of float32 products, or for reading and writing each map once an operation, whichever is longer.

Every case runs in a process of its own with a time limit: one that hangs costs its share of --seconds and no more, and
what it had scored until then counts. Images are generated: neither a data set nor TFDS, TensorFlow or nats_bench is
needed. --toy is a size for tests.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import app, flags

_SECONDS = flags.DEFINE_float("seconds", 420, "for all cases together", lower_bound=1)
_CASES = flags.DEFINE_list("cases", None, "which; default all")
_REFERENCE = flags.DEFINE_bool("reference", False, "write accelerator_values.json and do nothing else")
_OUT = flags.DEFINE_string("out", None, "Markdown file to write, beside printing; rewritten after every case")
flags.register_validator(
  "out", lambda out: out is None or pathlib.Path(out).parent.is_dir(), "--out: a file in a folder that exists"
)
_TOY = flags.DEFINE_bool("toy", False, "a few small arrays and architectures, to see that everything runs")
_CHILD = flags.DEFINE_string(
  "child", None, "measure this case in this process and print JSON lines; used by the script"
)

ARCHITECTURES = 15625  # of the whole space


class Case(NamedTuple):
  """A kind of proxy, and how much of it is measured.

  Attributes:
    proxy: the one that stands for its kind.
    loop: architectures scored after the warm-up, one after the other, as far as the time goes.
    together: architectures in one program, of each row; two of them are scored after one.
    share: of the time, beside those of the other cases; the ceilings have 1.
    passes: over the network, of all images; a pass back counts twice. None: two for each image and one, or those of
      the regression.
  """

  proxy: str
  loop: int
  together: tuple[int, ...]
  share: int
  passes: int | None


CASES = {
  "forward": Case("naswot", 256, (25, 100), 2, 1),
  "backward": Case("mgm", 256, (25, 100), 4, 3),
  "frozen": Case("ntk_condition_number_frozen", 128, (25, 100), 4, 4),  # one pass more for the statistics
  "exact": Case("ntk_condition_number", 12, (5,), 3, None),
  "regression": Case("signal_regression", 4, (25,), 3, None),
}
SEARCHES = {"tenas_nb201": ("nb201", 3), "tenas_darts": ("darts", 3)}  # spaces, and shares of the time
CEILINGS, VALUES = "ceilings", "values"
PRODUCT, COPY = "float32 product, highest precision", "copy, read and written"
COMPARED = ("naswot", "jacob_cov", "synflow", "mgm", "ntk_condition_number_frozen", "ntk_condition_number")
STORED = pathlib.Path(__file__).with_name("accelerator_values.json")
IMAGES = 32
WARM = 6  # architectures of the loop before the clock starts


def ceilings() -> Iterator[dict[str, Any]]:
  """The device, then what it reaches at best: (what, figure) of products, copies and the benchmark's convolutions."""
  import jax
  import jax.numpy as jnp

  device = jax.devices()[0]
  yield {"device": f"{device.device_kind} ({device.platform}), {os.cpu_count()} cores, jax {jax.__version__}"}

  def seconds(function: Callable[..., Any], *args: Any) -> float:
    """Median of five calls, after one that compiles."""
    program = jax.jit(function)
    times = []
    for _ in range(6):
      begin = time.perf_counter()
      jax.block_until_ready(program(*args))
      times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])

  side, images = (128, 8) if _TOY.value else (1024, 256) if device.platform == "cpu" else (8192, 4096)
  key = jax.random.key(0)
  a = jax.random.normal(key, (side, side))

  def product(precision: str) -> Callable[..., Any]:
    return lambda x: jnp.matmul(x, x, precision=precision)

  for what, precision, x in (
    (PRODUCT, "highest", a),
    ("float32 product, default precision", "default", a),
    ("bfloat16 product", "default", a.astype(jnp.bfloat16)),
  ):
    rate = 2 * side**3 / seconds(product(precision), x)
    yield {"what": what, "figure": f"{rate / 1e12:.2f} TFLOP/s", "rate": rate}
  rate = 2 * a.nbytes / seconds(lambda x: x + 1, a)
  yield {"what": COPY, "figure": f"{rate / 1e9:.0f} GB/s", "rate": rate}

  def convolve(x: Any, kernel: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision="highest")

  for channels, pixels in ((16, 32), (32, 16), (64, 8)):
    x = jax.random.normal(key, (images, pixels, pixels, channels))
    kernel = jax.random.normal(key, (3, 3, channels, channels))
    flop = 2 * 9 * channels * x.size
    what = f"3x3 convolution, {channels} channels, {images} images, highest precision"
    yield {"what": what, "figure": f"{flop / seconds(convolve, x, kernel) / 1e12:.2f} TFLOP/s"}


def given(size: str) -> tuple[Any, Any, Any]:
  """A batch, a network of NAS-Bench-201 and the space, for "toy", "values" or "full"."""
  import jax

  from jaxnas import base, data, spaces

  space = spaces.get("nb201")
  images, labels = data.plain_batch(data.load("synthetic"), jax.random.key(0), IMAGES)
  batch = base.Batch(images[:4, :8, :8], labels[:4]) if size == "toy" else base.Batch(images, labels)
  channels, cells = {"toy": (4, 1), "values": (16, 1), "full": (16, 5)}[size]
  return batch, space.network(base.NetworkConfig(channels, cells)), space


def values(size: str, together: int | None, double: bool = False) -> dict[str, list[float]]:
  """Scores of each proxy: in a program of so many, or one after the other; in float64 if `double`."""
  import jax
  import numpy as np

  from jaxnas import proxies, scoring

  batch, network, space = given(size)
  params, archs = network.init(jax.random.key(1)), space.sample(jax.random.key(2), 4 if size == "toy" else 30)
  engine = scoring.Engine(together, batching="dispatch" if together else "loop")
  with jax.enable_x64(double):
    if double:
      params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
      batch = batch._replace(inputs=np.asarray(batch.inputs, np.float64))
    chosen = [proxies.get(name) for name in COMPARED]
    found = engine.score(chosen, network, params, archs, batch, key=jax.random.key(3))
  return {name: [reading.value for reading in own] for name, own in zip(COMPARED, found, strict=True)}


def compared() -> Iterator[dict[str, Any]]:
  """For both ways, by proxy: how far scores are from the stored ones, and Spearman's correlation with them."""
  import numpy as np
  from scipy import stats

  size = "toy" if _TOY.value else "values"
  stored = json.loads(STORED.read_text())[size]
  for way, together in (("loop", None), ("dispatch", 4 if _TOY.value else 25)):
    for name, found in values(size, together).items():
      wanted, got = np.array(stored[name]), np.array(found)
      usable = np.isfinite(wanted) & np.isfinite(got)
      error = np.abs(got - wanted)[usable] / np.maximum(np.abs(wanted[usable]), 1e-300)
      rho = stats.spearmanr(wanted[usable], got[usable]).statistic
      differ = (np.isfinite(wanted) != np.isfinite(got)).sum()
      figures = f"{np.median(error):.1e} | {error.max():.1e} | {rho:.5f} | {differ}"
      yield {"line": f"| {name}, {way} | {figures} |"}


def bytes_of_maps(codes: Any, network: Any, images: Any) -> float:
  """Bytes of the maps that the edges of an architecture read and write in one pass, their mean."""
  channels, cells = network.channels, network.cells
  pixels = images.shape[0] * images.shape[1] * images.shape[2]
  stages = sum(cells * channels * 2**s * pixels / 4**s for s in range(3))
  return float((codes > 0).sum(1).mean()) * 2 * 4 * stages  # operation 0 is none


def measure(case: Case, together: int) -> None:
  """Scores random architectures and prints a JSON line after the warm-up and after every block.

  `together`: how many in one program; 0: one after the other.
  """
  import jax
  import numpy as np

  from jaxnas import base, data, proxies, scoring
  from jaxnas.gennas.proxy import RegressionConfig, SignalConfig

  batch, network, space = given("toy" if _TOY.value else "full")
  engine = scoring.Engine(together or None, batching="dispatch" if together else "loop")
  warm, timed = (together, 2 * together) if together else (1, 2) if _TOY.value else (WARM, case.loop)
  # Turning all operations round together makes sets in which each stands equally often at every place.
  first = space.sample(jax.random.key(1), -(-(warm + timed) // 5))
  codes = ((first[:, None] + np.arange(5, dtype=np.int8)[:, None]) % 5).reshape(-1, 6)[: warm + timed]
  proxy, share = proxies.get(case.proxy), True
  if proxy.Settings is not None:
    small = RegressionConfig(2, 2, signal_batch=2, signal_channels=4, signal_cells=1) if _TOY.value else None
    settings = SignalConfig(regression=small or RegressionConfig())
    network, batch, share = proxy.prepare(space, data.load("synthetic"), settings, jax.random.key(0))
  passes = case.passes or 1 + 2 * len(batch.inputs)
  if batch.problem is not None:
    passes = 3 * len(batch.problem.noise) + len(batch.problem.evaluation_noise)
  backbone = getattr(network, "backbone", network)
  config = base.NetworkConfig(backbone.channels, backbone.cells)
  macs = float(np.mean([space.costs(code, config, batch.inputs.shape[1]).macs for code in codes]))
  work = {"flop": 2 * macs * len(batch.inputs) * passes}
  work["bytes"] = bytes_of_maps(codes, backbone, batch.inputs) * passes
  ways = {"network": network, "engine": engine, "share_weights": share}
  scoring.score([proxy], space, codes[:warm], batch, **ways)
  begin, scored = time.perf_counter(), 0

  def advance(count: int, earlier: bool = False) -> None:
    nonlocal scored
    scored += count
    each = (time.perf_counter() - begin) / scored if scored else None
    memory = jax.local_devices()[0].memory_stats() or {}
    record = {"compile": engine.seconds.compile, "each": each, "scored": scored, **work}
    print(json.dumps({**record, "peak": memory.get("peak_bytes_in_use")}), flush=True)

  scoring.score([proxy], space, codes[warm:], batch, **ways, advance=advance)


def search(name: str) -> dict[str, Any]:
  """One search of TE-NAS: what it found, and its seconds."""
  from jaxnas import data, scoring, spaces
  from jaxnas.algorithms.tenas import TENAS, TENASConfig
  from jaxnas.base import Context
  from jaxnas.proxies.indicators import IndicatorConfig
  from jaxnas.settings import filled

  space, engine = spaces.get(name), scoring.Engine()
  small = IndicatorConfig(ntk_batch=2, ntk_channels=2, ntk_cells=1, region_batches=1, region_samples=4)
  own = small if _TOY.value else filled(IndicatorConfig(), space.published("tenas", "cifar10"))
  settings = filled(
    TENASConfig(batch_norm="batch", repeats=1 if _TOY.value else 3), space.published("tenas", "cifar10")
  )
  context = Context(space, data.load("synthetic"), settings, engine=engine, proxy_settings={IndicatorConfig: own})
  begin = time.perf_counter()
  found = TENAS().search(context, 0)
  return {"all": time.perf_counter() - begin, "compile": engine.seconds.compile, "found": str(found.rows[-1]["arch"])}


def run_child(name: str, limit: float) -> tuple[list[dict[str, Any]], str]:
  """The JSON lines of a case in a process of its own, and what went wrong, or nothing."""
  toy = ["--toy"] if _TOY.value else []
  command = [sys.executable, __file__, f"--child={name}", *toy]
  try:
    ran = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
  except subprocess.TimeoutExpired as late:
    return _records((late.stdout or b"").decode(errors="replace")), f"out of time after {limit:.0f} s"
  if ran.returncode:
    return _records(ran.stdout), f"failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}"
  return _records(ran.stdout), ""


def _records(text: str) -> list[dict[str, Any]]:
  """The whole lines of `text` that are JSON objects; a killed process may leave half of one."""
  lines = text.split("\n")[:-1]
  return [json.loads(line) for line in lines if line.startswith("{")]


def parts(name: str, case: Case) -> list[tuple[str, str]]:
  """The rows of a case: what names it to a child, and its title."""
  sizes = (2,) if _TOY.value else case.together
  ways = [("0", "loop"), *((str(size), f"{size} at once") for size in sizes)]
  return [(f"{name}/{size}", f"{name}: {case.proxy}, {title}") for size, title in ways]


def row(name: str, records: list[dict[str, Any]], trouble: str, rates: dict[str, float]) -> str:
  """A case's line of the table."""
  if not records or not records[-1]["scored"]:
    compiled = f"{records[-1]['compile']:.1f}" if records else ""
    return f"| {name} | {compiled} | {trouble or 'nothing scored'} | | | | | |"
  last = records[-1]
  each, note = last["each"], f" ({trouble})" if trouble else ""
  peak = "" if last["peak"] is None else f"{last['peak'] / 2**30:.2f}"
  least = max(last["flop"] / rates[PRODUCT], last["bytes"] / rates[COPY]) if len(rates) == 2 else float("nan")
  return (
    f"| {name}{note} | {last['compile']:.1f} | {1e3 * each:.1f} | {1 / each:.1f} | {ARCHITECTURES * each / 60:.1f} | "
    f"{last['scored']} | {least / each:.0%} | {peak} |"
  )


def child(name: str) -> None:
  """Measures one part in this process and prints JSON lines."""
  if name in (CEILINGS, VALUES):
    for record in ceilings() if name == CEILINGS else compared():
      print(json.dumps(record), flush=True)
  elif name in SEARCHES:
    print(json.dumps(search(SEARCHES[name][0])), flush=True)
  else:
    case, together = name.split("/")
    measure(CASES[case], int(together))


def main(_: list[str]) -> None:
  """Writes the report, or does what this process was started for."""
  if _CHILD.value:
    return child(_CHILD.value)
  if _REFERENCE.value:
    found = {size: values(size, None, double=True) for size in ("toy", "values")}
    STORED.write_text(json.dumps(found, indent=1) + "\n")
    return None
  begin = time.perf_counter()
  command = " ".join(["python experiments/accelerator.py", *sys.argv[1:]])
  lines: list[str] = []

  def tell(*new: str) -> None:
    lines.extend(new)
    print(*new, sep="\n", flush=True)
    if _OUT.value:
      pathlib.Path(_OUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")

  wanted = _CASES.value or [VALUES, *CASES, *SEARCHES]
  shares = {
    VALUES: 2,
    **{n: case.share for n, case in CASES.items()},
    **{n: share for n, (_, share) in SEARCHES.items()},
  }
  share = _SECONDS.value / (1 + sum(shares[name] for name in wanted))
  records, trouble = run_child(CEILINGS, share)
  device = records[0]["device"] if records else "unknown device"
  rates = {r["what"]: r["rate"] for r in records if r.get("what") in (PRODUCT, COPY)}
  tell(f"Made by `{command}`", "", "# Scoring on an accelerator", "", f"{device}; {time.strftime('%Y-%m-%d')}.", "")
  tell("| ceiling | figure |", "| --- | ---: |", *(f"| {r['what']} | {r['figure']} |" for r in records[1:]))
  if trouble:
    tell(f"| {trouble} | |")
  if VALUES in wanted:
    size = "C=4, N=1, 4 images of 8x8, a toy" if _TOY.value else f"C=16, N=1, {IMAGES} images"
    tell("", f"Scores in float32 here beside those of a CPU in float64, relative; NAS-Bench-201, {size}.", "")
    tell("| proxy | median | largest | rho | one of them not finite |", "| --- | ---: | ---: | ---: | ---: |")
    records, trouble = run_child(VALUES, share * shares[VALUES])
    tell(*(r["line"] for r in records), *([f"| {trouble} | | | | |"] if trouble else []))
  size = "C=4, N=1, 4 images of 8x8, a toy" if _TOY.value else f"C=16, N=5, {IMAGES} images"
  tell("", f"NAS-Bench-201, {size}; the time of an architecture is without compilation.", "")
  tell(
    "| case | compile s | ms an architecture | architectures/s | 15,625 take, min | scored | of ceiling | peak GiB |"
  )
  tell("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
  for name in CASES:
    own = parts(name, CASES[name]) if name in wanted else []
    for part, title in own:
      tell(row(title, *run_child(part, share * shares[name] / len(own)), rates))
  if any(name in wanted for name in SEARCHES):
    tell("", "Searches of TE-NAS, statistics of the batch, three repeats.", "")
    tell("| space | compile s | s in all | found |", "| --- | ---: | ---: | --- |")
  for name in SEARCHES:
    if name in wanted:
      records, trouble = run_child(name, share * shares[name])
      found = [f"{r['compile']:.1f} | {r['all']:.1f} | {r['found'].replace('|', chr(92) + '|')}" for r in records]
      tell(f"| {SEARCHES[name][0]} | {(found or [f' | {trouble} | '])[0]} |")
  tell("", f"All of it took {time.perf_counter() - begin:.0f} s.")
  return None


@flags.validator("cases", f"--cases: any of {', '.join([VALUES, *CASES, *SEARCHES])}, comma-separated")
def _known(names: list[str] | None) -> bool:
  return names is None or (bool(names) and all(name in (VALUES, *CASES, *SEARCHES) for name in names))


if __name__ == "__main__":
  app.run(main)
