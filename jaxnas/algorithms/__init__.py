"""The published searches, one paper a file."""

from jaxnas.algorithms import gennas, gennas_task, knas, nasi, random_search, score, tenas

__all__ = ["NAMES", "gennas", "gennas_task", "knas", "nasi", "random_search", "score", "tenas"]

NAMES = ("tenas", "knas", "nasi", "gennas", "gennas_task", "random_search", "score")
