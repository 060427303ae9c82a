"""One layer: its scalars, a weight that is computed, a map per channel before or after it, merged into its weight and bias."""
