"""The files that travel inside a checkpoint: each imports only its siblings here, torch, PIL and transformers."""
