"""The published searches, one paper a file."""

from jaxnas.algorithms import random_search, score, tenas

__all__ = ["NAMES", "random_search", "score", "tenas"]

NAMES = ("tenas", "random_search", "score")
