"""`python -m jaxnas` and the console script `jaxnas`: the same as `python -m jaxnas.main`, `--help` included."""

import runpy


def run() -> None:
  """Runs `jaxnas.main` as the main program: absl shows the flags of the module that is `__main__` in `--help`."""
  runpy.run_module("jaxnas.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  run()
