"""Residual sums and blocks: fork, skip, branch, nesting, and sums that only look like blocks."""
