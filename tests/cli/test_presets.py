"""The flagfiles in the package: each is understood, goes with its space, and says how it is run."""

import pytest
from absl import flags
from absl.testing import flagsaver

from jaxnas import main, registry, run


@pytest.mark.parametrize("name", main.presets())
def test_a_preset_is_understood(name):
  with flagsaver.flagsaver():
    assert main.parse(["jaxnas", f"--preset={name}"]) == ["jaxnas"]
    algorithm = registry.make("algorithm", flags.FLAGS.algorithm)
    space = registry.make("space", flags.FLAGS.space)
    run.refuse_space(algorithm, space)
    settings, _ = main._settings(algorithm, space)
    assert isinstance(settings, algorithm.Settings)


@pytest.mark.parametrize("name", main.presets())
def test_a_preset_states_its_command(name):
  head = "".join(line for line in main.preset(name).read_text().splitlines() if line.startswith("#"))
  assert f"--preset={name} " in head
