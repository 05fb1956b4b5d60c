"""Score many images: sources → engine → sinks."""

from ..tables import check_output
from .comments import Comments, read_comments
from .dataset_source import DatasetSource, open_source
from .engine import Scorer, ScoringOptions
from .entrances import CharmScorer, score_images
from .items import Item
from .model_loading import DEMONSTRATION_NOTICE, default_device, load_for_scoring
from .outputs import staged, write_output
from .ranks import Ranks
from .rows import ScoreRow
from .run import ScoringInterrupted, Summary, TableOptions, chosen_file, score_to_stream, score_to_table
from .sinks import open_table
from .sources import Part, PathSource, Source, SourceOptions, expand_shards, list_items


__all__ = [
    "DEMONSTRATION_NOTICE",
    "CharmScorer",
    "Comments",
    "DatasetSource",
    "Item",
    "Part",
    "PathSource",
    "Ranks",
    "ScoreRow",
    "Scorer",
    "ScoringInterrupted",
    "ScoringOptions",
    "Source",
    "SourceOptions",
    "Summary",
    "TableOptions",
    "check_output",
    "chosen_file",
    "default_device",
    "expand_shards",
    "list_items",
    "load_for_scoring",
    "open_source",
    "open_table",
    "read_comments",
    "score_images",
    "score_to_stream",
    "score_to_table",
    "staged",
    "write_output",
]
