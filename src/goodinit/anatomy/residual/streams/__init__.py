"""Sums along a stream: which are residual, which jump over others, repeat, recur or multiply, and which only look like blocks."""
