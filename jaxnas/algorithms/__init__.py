"""The published searches, one paper a file."""

from jaxnas.algorithms import knas, nasi, random_search, score, tenas

__all__ = ["NAMES", "knas", "nasi", "random_search", "score", "tenas"]

NAMES = ("tenas", "knas", "nasi", "random_search", "score")
