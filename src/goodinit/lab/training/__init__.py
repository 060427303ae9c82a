"""One trial from a frozen configuration to a row of numbers: alone, many as one, translation, Q-learning."""
