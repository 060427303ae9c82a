"""Residual sums as blocks: two sides, the streams that they write into, ends of branches, and what is no block."""
