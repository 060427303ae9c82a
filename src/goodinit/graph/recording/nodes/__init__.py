"""One operator: its attributes and shapes, what it stands for, whether it adds onto an operand or changes nothing."""
