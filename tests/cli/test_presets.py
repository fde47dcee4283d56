"""The flagfiles in the package: each is understood, goes with its space, and says how it is run."""

import re

import pytest
from absl import flags
from absl.testing import flagsaver

from jaxnas import main, registry, run
from jaxnas.errors import ConfigError


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


def settings_of(*given):
  with flagsaver.flagsaver():
    main.parse(["jaxnas", *given])
    algorithm = registry.make("algorithm", flags.FLAGS.algorithm)
    return main._settings(algorithm, registry.make("space", flags.FLAGS.space))[0]


@pytest.mark.parametrize(
  ("given", "said"),
  [
    (
      "--algorithm=gennas --gennas_within",
      "--gennas_within has no meaning with --space=nb201 (it is not Tabulated: no ",
    ),
    ("--algorithm=gennas --space=nds_enas --nogennas_within", "--gennas_within has no meaning with --space=nds_enas"),
    ("--algorithm=gennas_task --gennas_within", "--gennas_within is a setting of --algorithm=gennas, not of"),
  ],
)
def test_a_flag_without_effect_is_refused(given, said):
  with pytest.raises(ConfigError, match=re.escape(said)):
    settings_of(*given.split())


def test_the_same_flag_is_taken_where_a_table_is_searched():
  for given, within in (("--gennas_within", True), ("--nogennas_within", False)):
    assert settings_of("--preset=gennas_nds_resnext_a", given).gennas_within == within
  assert settings_of("--preset=gennas_nb201_cifar10").gennas_within  # is recorded, as before
