"""Which room may import which, and what a signature may leave open."""

import ast
import graphlib
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jaxnas"
LEAVES = {
  *("base", "errors", "figures", "files", "hosts", "registry", "settings", "stopping", "terminal", "workdir"),
  *("data.batches", "nets.products", "tabular.combination", "tabular.metrics"),
}
MAY_IMPORT = {
  **{leaf: {"errors"} for leaf in LEAVES},
  "registry": {"base", "errors", "files"},
  "data.batches": {"base", "errors"},
  "figures": {"errors", "files"},
  "hosts": {"errors", "files", "peers", "rendezvous", "stopping"},
  "peers": {"stopping"},
  "rendezvous": {"errors", "terminal"},
  "setting_flags": {"base", "errors", "settings"},
  "stopping": {"terminal"},
  "text_flags": {"base", "data", "errors"},
  "usage": {"base", "errors", "registry", "settings"},
  "terminal": set(),
  "workdir": {"errors", "files"},
  "ntk": {"base", "errors"},
  "nets": {"base", "errors", "nets.products"},
  "spaces": LEAVES | {"nets", "ntk", "tabular"},  # reads its benchmarks into tables; kernels of infinite width
  "proxies": LEAVES | {"ntk"},
  "scoring": LEAVES | {"nets", "proxies"},  # nets: the slots of choices
  "models": LEAVES | {"nets", "ntk", "proxies", "scoring"},
  "train": LEAVES,
  "data": LEAVES,
  "tabular": LEAVES,
  "report": LEAVES,
  "algorithms": LEAVES | {"nets", "ntk", "proxies", "scoring", "train"},  # nets: mixing weights, relaxation
  "gennas": LEAVES | {"algorithms", "nets", "proxies", "scoring", "train"},  # nets: the heads are layers
}  # main, run and the package itself may import everything
MODULES = {
  ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text())
  for file in sorted(PACKAGE.rglob("*.py"))
}

# What does not obey yet: nothing may be added, and what obeys goes.
ARROWS = {
  ("report.comparison", "tabular"),
}
CIRCLES: set = set()


def room(module):
  return module if module in LEAVES else module.split(".")[0]


def imported(module, *, typing=True):
  """Modules of the package that a module imports, anywhere in it (but for `typing`, under TYPE_CHECKING)."""
  found, nodes = set(), [MODULES[module]]
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
      continue
    nodes.extend(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{module}: a relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      own = name.removeprefix("jaxnas.")
      if name != own:
        found.add(own if own in MODULES else own.rpartition(".")[0])
  return found - {module}


def wrong_arrows():
  for module in MODULES:
    allowed = MAY_IMPORT.get(room(module))
    for other in imported(module):
      if allowed is not None and room(other) not in allowed | {room(module)}:
        yield module, room(other)


def test_rooms_import_what_they_may():
  assert set(wrong_arrows()) <= ARROWS


def test_every_room_has_its_rule():
  assert {room(m) for m in MODULES} - MAY_IMPORT.keys() == {"__init__", "__main__", "main", "run"}


def test_no_circles():
  graph = {m: {o for o in imported(m, typing=False) if (m, o) not in CIRCLES} for m in MODULES}
  tuple(graphlib.TopologicalSorter(graph).static_order())  # CycleError has the circle


def left_open(tree):
  """Where a contract is left open: `space: Any` and the like, attributes of a space or network that may be missing."""
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if arg.arg in ("space", "network", "settings") and arg.annotation and ast.unparse(arg.annotation) == "Any":
          yield f"{node.name}({arg.arg}: Any)"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
      asked = ast.unparse(node.args[0])
      may_lack = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
      if may_lack and ("space" in asked or "network" in asked):
        yield ast.unparse(node)


def test_contracts_are_not_left_open():
  assert {m: found for m, tree in MODULES.items() if (found := list(left_open(tree)))} == {}


def test_public_classes_have_names_of_their_own():
  where = {}
  for module, tree in MODULES.items():
    for node in tree.body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        where.setdefault(node.name, []).append(module)
  assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}
