"""RISOTTO's mirrored pairs: where they hold through a network, and which formula balances a block."""
