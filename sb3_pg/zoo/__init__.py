"""The plug-in of RL Zoo: the only place of the library that knows rl_zoo3."""
