"""Which images share a batch: by a budget of tokens, so that unlike sizes fill it with little padding."""

from __future__ import annotations

from collections.abc import Sequence


# Of the tokens of a batch, at most this share is padding.
MAX_PADDING = 0.1


def plan_batches(
    lengths: Sequence[int],
    token_budget: int,
    max_images: int | None = None,
    max_padding: float = MAX_PADDING,
) -> list[list[int]]:
    """Group sequences into batches, longest first, each of them padded to its longest.

    A batch is closed before it would exceed the budget, hold more than `max_images`, or consist of more than
    `max_padding` padding. A sequence longer than the budget is a batch of its own.

    Args:
        lengths: tokens of each image.
        token_budget: largest number of tokens in a batch, padding included.
        max_images: most images in a batch; no limit if not given.
        max_padding: largest share of padding in a batch, in [0, 1].

    Returns:
        Indices into `lengths`; each exactly once.
    """
    batches: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            size = len(batches[-1]) + 1
            padded = size * lengths[batches[-1][0]]
            fits = padded <= token_budget and padded - total - lengths[index] <= max_padding * padded
            if fits and (max_images is None or size <= max_images):
                batches[-1].append(index)
                total += lengths[index]
                continue
        batches.append([index])
        total = lengths[index]
    return batches
