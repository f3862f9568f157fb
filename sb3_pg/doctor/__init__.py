"""What is wrong with a policy gradient: its statistics from a checkpoint, and the classical mistakes in an array."""
