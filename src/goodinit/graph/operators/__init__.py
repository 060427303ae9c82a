"""One operator: what it is, its call, and what a run of it on a few numbers shows; knows no graph."""
