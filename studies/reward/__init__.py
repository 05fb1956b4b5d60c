"""How easily a reward is fooled."""
