"""What is to be solved: one class for each kind of problem."""
