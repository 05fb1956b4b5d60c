"""Checkpoint repositories: their layout, their cards, push, pull, and the conversion of published ones."""

from .cards import CardContext, draft_model_card, render_card, write_published_cards
from .from_pickles import convert_from_hub
from .layout import assemble_repository, embedded_model_path, find_checkpoints
from .pull import pull_checkpoint, resolve_checkpoint, split_revision
from .push import PushError, push_checkpoint
from .verify import CheckpointError, verify_checkpoints


__all__ = [
    "CardContext",
    "CheckpointError",
    "PushError",
    "assemble_repository",
    "convert_from_hub",
    "draft_model_card",
    "embedded_model_path",
    "find_checkpoints",
    "pull_checkpoint",
    "push_checkpoint",
    "render_card",
    "resolve_checkpoint",
    "split_revision",
    "verify_checkpoints",
    "write_published_cards",
]
