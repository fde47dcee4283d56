"""Batches: normalised images and crops, drawn from a JAX key."""
