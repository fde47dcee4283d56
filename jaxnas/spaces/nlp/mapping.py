"""Where the parameters of `NLPModule` are in the tree of the fast network.

There the matrices, projections and biases of a layer are stacked in the order in which the recipe uses them
(`program`).
"""

from jaxnas.spaces.mapping import Part, Parts, layer
from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import LINEAR, X
from jaxnas.spaces.nlp.module import NLPModule


def parameters(module: NLPModule) -> Parts:
  """Of the collection `params`."""
  ends = ("kernel", "bias")
  parts = layer(("encoder",), ("stem",), leaves=ends) | layer(("decoder",), ("classifier",), leaves=ends)
  recipe = encoding.unpack(module.arch)
  for name in (f"layer_{i}" for i in range(module.cells)):
    matrices = projections = linears = 0
    for k, (op, sources) in enumerate(recipe.nodes):
      if op != LINEAR:
        continue
      own = (name, f"node_{k}")
      parts[(*own, "bias")] = Part((name, "linears", "bias"), (linears,))
      linears += 1
      for i, source in enumerate(sources):
        if source == X:
          parts[(*own, f"kernel_{i}")] = Part((name, "projections", "kernel"), (projections,))
          projections += 1
        else:
          parts[(*own, f"kernel_{i}")] = Part((name, "matrices", "kernel"), (matrices,))
          matrices += 1
  return parts


def statistics(module: NLPModule) -> Parts:
  """Of the collection `batch_stats`: there is no batch normalisation."""
  del module
  return {}
