"""What an accelerator does with the scoring engine: run it whenever a machine can be had.

  python experiments/accelerator.py --out=experiments/results/accelerator.md

First the ceilings of the card, then NAS-Bench-201 at the benchmark's own size (C=16, N=5) by kind of proxy: a forward
pass, a backward pass, the kernel of frozen statistics, the exact kernel; each one architecture after the other ("loop")
and many in one program ("dispatch", see `scoring.Engine`). Every case runs in a process of its own with a time limit:
one that hangs costs its share of --seconds and no more, and what it had scored until then counts.
Images are generated: neither a data set nor TFDS, TensorFlow or nats_bench is needed. --toy is a size for tests.
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
_CASES = flags.DEFINE_list("cases", None, "of forward, backward, frozen and exact; default all")
_OUT = flags.DEFINE_string("out", None, "Markdown file to write, beside printing; rewritten after every case")
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
  """

  proxy: str
  loop: int
  together: tuple[int, ...]
  share: int


CASES = {
  "forward": Case("naswot", 256, (25, 100), 2),
  "backward": Case("mgm", 256, (25, 100), 4),
  "frozen": Case("ntk_condition_number_frozen", 128, (25, 100), 4),
  "exact": Case("ntk_condition_number", 12, (5,), 3),
}
CEILINGS = "ceilings"
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
    ("float32 product, highest precision", "highest", a),
    ("float32 product, default precision", "default", a),
    ("bfloat16 product", "default", a.astype(jnp.bfloat16)),
  ):
    yield {"what": what, "figure": f"{2 * side**3 / seconds(product(precision), x) / 1e12:.2f} TFLOP/s"}
  yield {"what": "copy, read and written", "figure": f"{2 * a.nbytes / seconds(lambda x: x + 1, a) / 1e9:.0f} GB/s"}

  def convolve(x: Any, kernel: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision="highest")

  for channels, pixels in ((16, 32), (32, 16), (64, 8)):
    x = jax.random.normal(key, (images, pixels, pixels, channels))
    kernel = jax.random.normal(key, (3, 3, channels, channels))
    flop = 2 * 9 * channels * x.size
    what = f"3x3 convolution, {channels} channels, {images} images, highest precision"
    yield {"what": what, "figure": f"{flop / seconds(convolve, x, kernel) / 1e12:.2f} TFLOP/s"}


def measure(case: Case, together: int) -> None:
  """Scores random architectures and prints a JSON line after the warm-up and after every block.

  `together`: how many in one program; 0: one after the other.
  """
  import jax
  import numpy as np

  from jaxnas import base, data, proxies, scoring, spaces

  space = spaces.get("nb201")
  engine = scoring.Engine(together or None, batching="dispatch" if together else "loop")
  images, labels = data.plain_batch(data.load("synthetic"), jax.random.key(0), IMAGES)
  batch = scoring.Batch(images[:2, :8, :8], labels[:2]) if _TOY.value else scoring.Batch(images, labels)
  network = base.NetworkConfig(channels=2, cells=1) if _TOY.value else None  # None: the space's own
  warm, timed = (together, 2 * together) if together else (1, 2) if _TOY.value else (WARM, case.loop)
  # Turning all operations round together makes sets in which each stands equally often at every place.
  first = space.sample(jax.random.key(1), -(-(warm + timed) // 5))
  codes = ((first[:, None] + np.arange(5, dtype=np.int8)[:, None]) % 5).reshape(-1, 6)[: warm + timed]
  chosen = [proxies.get(case.proxy)]
  scoring.score(chosen, space, codes[:warm], batch, network=network, engine=engine)
  begin, scored = time.perf_counter(), 0

  def advance(count: int, earlier: bool = False) -> None:
    nonlocal scored
    scored += count
    each = (time.perf_counter() - begin) / scored if scored else None
    memory = jax.local_devices()[0].memory_stats() or {}
    print(
      json.dumps(
        {"compile": engine.seconds.compile, "each": each, "scored": scored, "peak": memory.get("peak_bytes_in_use")}
      ),
      flush=True,
    )

  scoring.score(chosen, space, codes[warm:], batch, network=network, engine=engine, advance=advance)


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


def row(name: str, records: list[dict[str, Any]], trouble: str) -> str:
  """A case's line of the table."""
  if not records or not records[-1]["scored"]:
    compiled = f"{records[-1]['compile']:.1f}" if records else ""
    return f"| {name} | {compiled} | {trouble or 'nothing scored'} | | | | |"
  last = records[-1]
  each, note = last["each"], f" ({trouble})" if trouble else ""
  peak = "" if last["peak"] is None else f"{last['peak'] / 2**30:.2f}"
  return (
    f"| {name}{note} | {last['compile']:.1f} | {1e3 * each:.1f} | {1 / each:.1f} | {ARCHITECTURES * each / 60:.1f} | "
    f"{last['scored']} | {peak} |"
  )


def main(_: list[str]) -> None:
  if _CHILD.value:
    if _CHILD.value != CEILINGS:
      name, together = _CHILD.value.split("/")
      return measure(CASES[name], int(together))
    for record in ceilings():
      print(json.dumps(record), flush=True)
    return None
  begin = time.perf_counter()
  command = " ".join(["python experiments/accelerator.py", *sys.argv[1:]])
  lines: list[str] = []

  def tell(*new: str) -> None:
    lines.extend(new)
    print(*new, sep="\n", flush=True)
    if _OUT.value:
      pathlib.Path(_OUT.value).write_text("\n".join(lines) + "\n", encoding="utf-8")

  wanted = {name: CASES[name] for name in _CASES.value or CASES}
  share = _SECONDS.value / (1 + sum(case.share for case in wanted.values()))
  records, trouble = run_child(CEILINGS, share)
  device = records[0]["device"] if records else "unknown device"
  tell(f"Made by `{command}`", "", "# Scoring on an accelerator", "", f"{device}; {time.strftime('%Y-%m-%d')}.", "")
  tell("| ceiling | figure |", "| --- | ---: |", *(f"| {r['what']} | {r['figure']} |" for r in records[1:]))
  if trouble:
    tell(f"| {trouble} | |")
  size = "C=2, N=1, 2 images of 8x8, a toy" if _TOY.value else f"C=16, N=5, {IMAGES} images"
  tell("", f"NAS-Bench-201, {size}; the time of an architecture is without compilation.", "")
  tell("| case | compile s | ms an architecture | architectures/s | 15,625 take, min | scored | peak GiB |")
  tell("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
  for name, case in wanted.items():
    own = parts(name, case)
    for child, title in own:
      tell(row(title, *run_child(child, share * case.share / len(own))))
  tell("", f"All of it took {time.perf_counter() - begin:.0f} s.")
  return None


@flags.validator("cases", "--cases: any of forward, backward, frozen and exact, comma-separated")
def _known(names: list[str] | None) -> bool:
  return names is None or (bool(names) and all(name in CASES for name in names))


if __name__ == "__main__":
  app.run(main)
