"""From an environment to arrays: how actions are drawn, how steps are stored, when a batch is complete."""
