"""What the configurations of all networks have in common: modes of batch normalisation, initialisations, checks."""

from typing import Any, Literal, get_args

from jaxnas.errors import ConfigError

BatchNormMode = Literal["batch", "batch_frozen", "running", "identity"]
Init = Literal["kaiming_fan_out", "kaiming_fan_in", "torch_default"]
BATCH_NORMS: tuple[str, ...] = get_args(BatchNormMode)
INITS: tuple[str, ...] = get_args(Init)


def check(config: Any, **least: int) -> None:
  """Checks the fields `batch_norm` and `init` of a configuration, and that others are at least what is given.

  Raises:
    ConfigError: names the field, its value and what is allowed.
  """
  for name, lowest in least.items():
    if getattr(config, name) < lowest:
      raise ConfigError(f"{name}={getattr(config, name)} must be at least {lowest}")
  for name, allowed in (("batch_norm", BATCH_NORMS), ("init", INITS)):
    value = getattr(config, name, allowed[0])
    if value not in allowed:
      raise ConfigError(f"{name}={value!r} must be one of {', '.join(allowed)}")
