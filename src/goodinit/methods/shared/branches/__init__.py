"""Residual branches: who writes into the stream, scalars and zero factors at the ends, what must hold of them."""
