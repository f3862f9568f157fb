"""Hyperparameters of each algorithm, one RL Zoo file an algorithm: data only, read through sb3_pg.zoo.extend."""
