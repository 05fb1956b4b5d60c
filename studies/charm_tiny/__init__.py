"""The embedded checkpoint `charm-tiny`: its training and its baselines."""
