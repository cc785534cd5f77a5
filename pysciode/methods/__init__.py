"""The methods: algorithms, adjoints, initializations, ensemble algorithms."""
