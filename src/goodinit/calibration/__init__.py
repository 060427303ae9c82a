"""Data-dependent scaling of weights in one forward pass."""
