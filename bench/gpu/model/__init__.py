"""What a GPU should need, from arithmetic and compiled code: predictions that a first run confirms or refutes."""
