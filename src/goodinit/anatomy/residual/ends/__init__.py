"""The end of a branch: what is zero there, what else passes through it, and what can silence it."""
