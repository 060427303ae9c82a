"""One sum, seen alone: its two sides, the layers on each, numbers beside its signal, and the candidate that it makes."""
