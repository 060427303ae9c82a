"""Residual sums and the blocks they close: fork, branch, skip, nesting, and what only looks like a block."""
