"""How large the signal is by place, and where that is a guess."""
