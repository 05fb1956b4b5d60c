"""A service that scores photos for other programs: `charm-hf serve` (needs `pip install 'charm-hf[serve]'`).

Data flow: a request's files (`web`) → headers read, decoded and tokenized in worker processes → one queue for all
clients → batches by token budget → the model, in a thread (`shared_batches`) → rows → answers. The steps are those of
[`Scorer`], and so are the scores.
"""

from .shared_batches import SharedBatches
from .web import ServiceLimits, create_app


__all__ = ["ServiceLimits", "SharedBatches", "create_app"]
