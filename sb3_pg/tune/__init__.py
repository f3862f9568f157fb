"""Hyperparameter search over several seeds: ``python -m sb3_pg.tune``."""
