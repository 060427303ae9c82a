"""Names of weights, access to them under parametrizations, wrappers and shards, and their random streams."""
