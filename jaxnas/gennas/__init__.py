"""GenNAS: networks ranked by how well they learn synthetic signals, and the two searches that the paper builds on it.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021.
"""
