"""With what is solved and differentiated: algorithms, adjoints, initializations, ensemble algorithms."""
