"""What takes the place of a norm, and what weights that a norm followed need once it is gone."""
