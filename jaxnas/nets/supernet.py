"""Alphas of supernets, for any space: which operations an edge mixes, and with which weights."""

import numpy as np
from jaxtyping import Bool, Float, Float32

EXECUTED = 0.01  # an operation with a smaller weight is not executed (TE-NAS code): it shows no ReLU


def active_weights(active: Bool[np.ndarray, "*A cells E O"]) -> Float32[np.ndarray, "*A cells E O"]:
  """Equal weights 1 / (number of active operations) on every edge, 0 elsewhere; an edge with none stays 0."""
  active = np.asarray(active, np.float32)
  return active / np.maximum(active.sum(-1, keepdims=True), 1)


def mixing_weights(logits: Float[np.ndarray, "*A E O"]) -> Float[np.ndarray, "*A E O"]:
  """Softmax over the operations, with weights of at most `EXECUTED` set to 0 (TE-NAS, section 3 of the code)."""
  logits = np.asarray(logits)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  return np.where(weights > EXECUTED, weights, 0).astype(logits.dtype)
