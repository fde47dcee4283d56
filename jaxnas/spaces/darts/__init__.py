"""The DARTS space: a normal and a reduction cell of four nodes, two inputs a node, seven operations an input.

Source: Liu, Simonyan & Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
"""

from jaxnas.spaces.darts import costs, encoding, genotypes

__all__ = ["costs", "encoding", "genotypes"]
