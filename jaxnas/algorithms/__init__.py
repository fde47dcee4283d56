"""The published searches, one paper a file, and the training of what they find."""

from jaxnas.algorithms import knas, nasi, random_search, score, tenas, train

__all__ = ["NAMES", "knas", "nasi", "random_search", "score", "tenas", "train"]

NAMES = ("tenas", "knas", "nasi", "gennas", "gennas_task", "random_search", "score", "train")
