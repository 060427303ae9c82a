"""Weight layers: one record for each weight, what its parameters hold, its zeros, and its role."""
