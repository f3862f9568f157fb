"""Arrays in, advantages and value targets out: pure NumPy, no network, no environment."""
