"""The plug-in of RL Zoo."""

HOSTS = {"a2c_gae": "a2c", "ppo_gae": "ppo", "trpo_gae": "trpo"}
"""RL Zoo's key of the algorithm that one of ours is, but for lambda: its blocks and its search space serve both."""
