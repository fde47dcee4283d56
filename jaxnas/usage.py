"""What --help shows: the program on one page, or what one algorithm reads."""

import textwrap
from collections.abc import Sequence

from absl import flags

from jaxnas import registry, settings
from jaxnas.errors import ConfigError

ASKED = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")
COMMON = (
  ("algorithm", "what to run"),
  ("space", "the search space"),
  ("dataset", "the images to search with"),
  ("data_dir", "the TFDS folder that holds them"),
  ("benchmark", "accuracies to look the result up in, or none"),
  ("preset", "published settings, by name"),
  ("seeds", "one search each, comma-separated"),
  ("workdir", "keeps everything there; a killed run continues"),
  ("plugins", "your own files, comma-separated"),
  ("memory_gb", "for intermediates; default 4 on a CPU"),
)
_WIDTH = 79


def page(head: str) -> str:
  """The program on one page.

  Args:
    head: what it is, with examples.
  """
  lines = [head.strip(), "", "Flags of every run:"]
  lines += [f"  --{name:<12} {text}" for name, text in COMMON]
  for kind in ("algorithm", "space", "dataset"):
    names = ", ".join(registry.names(kind))
    lines += textwrap.wrap(f"--{kind}: {names}", _WIDTH, initial_indent="  ", subsequent_indent="      ")
  lines += ["", "--algorithm=NAME --help: its flags with their defaults. --helpfull: all flags."]
  return "\n".join(lines)


def of_algorithm(name: str, values: flags.FlagValues) -> str:
  """The flags of an algorithm and of the proxies that it measures by default, with their defaults.

  Args:
    values: where the flags are defined.

  Raises:
    ConfigError: there is no such algorithm.
  """
  algorithm = registry.make("algorithm", name, "--algorithm")
  lines = [f"--algorithm={name}: {algorithm.summary}", ""]
  lines += _flags(algorithm.Settings, values)
  proxies: dict[type, list[str]] = {}
  for proxy in _proxies(algorithm, str(values["space"].value)):
    if proxy.Settings is not None:
      proxies.setdefault(proxy.Settings, []).append(proxy.name)
  for config, names in proxies.items():
    lines += ["", f"Of {' and '.join(names)}:", *_flags(config, values)]
  lines += ["", "Flags of every run: --help without --algorithm. Of other proxies: --helpfull."]
  return "\n".join(lines)


def _proxies(algorithm, space: str) -> Sequence:
  """Those that the algorithm measures by default; all where its settings have no defaults."""
  try:
    return algorithm.proxies(algorithm.Settings(), registry.make("space", space))
  except ConfigError:  # some setting has no default
    return [registry.make("proxy", name) for name in registry.names("proxy")]


def _flags(config: type, values: flags.FlagValues) -> list[str]:
  lines = []
  for part in settings.parts(config):
    for name in (n for n, field in part.__dataclass_fields__.items() if "help" in field.metadata):
      default = values[name].default
      text = ",".join(default) if isinstance(default, list) else str(default)
      shown = "" if default is None else f"={text.lower() if isinstance(default, bool) else text}"
      lines += textwrap.wrap(f"--{name}{shown}", _WIDTH, initial_indent="  ", subsequent_indent="      ")
      lines += textwrap.wrap(str(values[name].help), _WIDTH, initial_indent="      ", subsequent_indent="      ")
  return lines
