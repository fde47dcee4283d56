"""The package as it is installed: its console script, and running it beside a folder of its own name."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest


@pytest.fixture(scope="module")
def installed() -> None:
  try:
    importlib.metadata.distribution("jaxnas")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("jaxnas is on the path and not installed: pip install -e .")


def output_of(command: list[str], folder: pathlib.Path) -> str:
  """Standard output of `command` in `folder`, with the installed package only."""
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120).stdout


def test_help_is_the_same_from_everywhere(installed, tmp_path):
  """A folder named jaxnas, as a checkout's is, must not pass for the package in the folder that contains it."""
  (tmp_path / "jaxnas").mkdir()
  script = pathlib.Path(sysconfig.get_path("scripts"), "jaxnas")
  assert script.exists()
  wanted = output_of([sys.executable, "-m", "jaxnas.main", "--help"], tmp_path)
  assert "--workdir" in wanted and "--helpfull" in wanted
  assert output_of([str(script), "--help"], tmp_path) == wanted
