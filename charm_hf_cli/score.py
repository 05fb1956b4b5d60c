"""`charm-hf score`: a table of scores. Thin: `charm_hf.scoring` does it."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .select import (
    CopyToOption,
    StarsOption,
    ThresholdOption,
    TopOption,
    WriteXmpOption,
    XmpCommand,
    report_choice,
)
from .support import (
    EXIT_ALL_DONE,
    EXIT_SOME_FAILED,
    EXIT_STOPPED,
    TABLES,
    DeviceOption,
    DtypeOption,
    LogFormatOption,
    ModelOption,
    QuietOption,
    RevisionOption,
    SeedOption,
    SelectionOption,
    SubfolderOption,
    TokenBudgetOption,
    TrustOption,
    WorkersOption,
    fail,
    given,
    list_names,
    say,
    speak,
    voice,
)


if TYPE_CHECKING:
    from charm_hf.scoring import Summary


app = typer.Typer()

_EXIT_SIGNAL = 128


@app.command(cls=XmpCommand)
def score(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Image files, folders, glob patterns; '-' for paths on standard input; a .csv, .tsv, .jsonl or "
            ".parquet table with a column of paths; .tar shards; or one dataset: hf://datasets/NAME[@REVISION], or a "
            "folder that save_to_disk wrote.",
        ),
    ],
    model: ModelOption = None,
    revision: RevisionOption = None,
    subfolder: SubfolderOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Table ({list_names(TABLES)}) here or at a URL such as s3://…, Lance dataset (.lance), or shards "
            "with the scores inside (shards/%06d.tar); stdout if not given.",
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Score anew, whatever --output knows.")] = False,
    distribution: Annotated[bool, typer.Option("--distribution", help="Add the predicted distribution.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Add what the head sees of each image.")] = False,
    provenance: Annotated[bool, typer.Option("--provenance", help="Add model, revision, version, dtype.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop rows of photos that are gone from --output.")] = False,
    top: TopOption = None,
    threshold: ThresholdOption = None,
    copy_to: CopyToOption = None,
    write_xmp: WriteXmpOption = None,
    stars: StarsOption = "percentile",
    path_column: Annotated[
        str | None, typer.Option(help="Column of paths in a table, of images in a dataset.")
    ] = None,
    key_column: Annotated[str | None, typer.Option(help="Column whose values become the column `key`.")] = None,
    root: Annotated[str | None, typer.Option(metavar="DIR", help="Where relative paths in a table start.")] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="Paths on standard input end with a zero byte.")] = False,
    split: Annotated[str | None, typer.Option(help="Split of a dataset.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Read a dataset from the Hub as it goes.")] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Pass over files and folders of such a name, as '*_old*'."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Of folders take only files of such a name, as '*.jpg'."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Most images in a batch.")] = None,
    token_budget: TokenBudgetOption = None,
    num_workers: WorkersOption = None,
    patch_selection: SelectionOption = None,
    saliency_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="For --patch-selection saliency: maps named like the photos, above 0 salient."
        ),
    ] = None,
    seed: SeedOption = None,
    num_views: Annotated[int, typer.Option(min=1, help="Average over this many random selections.")] = 1,
    comments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table with the columns path (or file name) and comment, for checkpoints that read comments.",
        ),
    ] = None,
    reduced_decoding: Annotated[
        bool,
        typer.Option("--reduced-decoding", help="Decode large JPEGs at a fraction of their size: faster, less exact."),
    ] = False,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch images that are named by URLs.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Score every N-th image, from the I-th on: one of N runs.")
    ] = None,
    log_format: LogFormatOption = "text",
    quiet: QuietOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Score photos: a table of path, score, normalized_score, std, width, height, tokens and error.

    Started again after an interruption, the same command with --output goes on where it stopped; started again later,
    it scores what is new or has changed. What --top and --threshold keep goes to FILE.chosen.csv beside --output, as
    charm-hf select does.

    Exit code: 0 all scored, 1 some images failed, 2 wrong usage, 3 stopped by a full disk or the like, 130 by Ctrl-C.
    """
    from transformers.utils.logging import disable_progress_bar

    from charm_hf import scoring
    from charm_hf.choosing.choice import Choice
    from charm_hf.choosing.delivery import Delivery

    speak(log_format, quiet)
    disable_progress_bar()
    skipped: Counter[str] = Counter()
    with _exit_codes(resumable=output is not None) as bar:
        _check_patterns(paths)
        options = scoring.ScoringOptions(
            token_budget=token_budget,
            batch_size=batch_size,
            num_views=num_views,
            embeddings=embeddings,
            processor_parameters=given(
                patch_selection=patch_selection, seed=seed, reduced_decoding=reduced_decoding or None
            ),
            saliency_dir=saliency_dir,
            num_workers=num_workers,
            allow_urls=allow_urls,
        )
        ranks = scoring.Ranks()
        table_file = None if output is None else scoring.staged(output)
        if output is not None and table_file is not None:
            scoring.check_output(table_file)
            if table_file != Path(output) and (top is not None or threshold is not None):
                raise ValueError("--top and --threshold need a table on this machine: choose from it, or from stdout.")
            shards = scoring.expand_shards(paths) if output.endswith(".tar") else []
        elif ranks.count > 1:
            raise ValueError("Several processes need --output FILE, which they write together.")
        source = scoring.open_source(
            paths,
            scoring.SourceOptions(
                path_column, key_column, root, null, split, streaming, tuple(exclude or ()), tuple(include or ())
            ),
            on_skipped=lambda path, kind: skipped.update([kind]),
        )
        if shard is not None:
            source = scoring.Part(source, *_read_part(shard))
        if model is None and ranks.is_main:
            say(scoring.DEMONSTRATION_NOTICE)
        loaded, processor = scoring.load_for_scoring(
            model,
            device=device or ranks.device,
            dtype=dtype,
            compile_model=compile_model,
            trust_remote_code=trust_remote_code,
            **given(revision=revision, subfolder=subfolder),
        )
        said = None if comments is None else scoring.read_comments(comments)
        quantiles = getattr(loaded.config, "score_quantiles", None)
        delivery = Delivery(copy_to, write_xmp=write_xmp, stars=stars, quantiles=quantiles)
        choice = Choice(threshold, top=top)
        table = scoring.TableOptions(distribution, provenance, choice, delivery, prune)
        scorer = scoring.Scorer(loaded, processor, options, said)
        bar.hidden = not ranks.is_main or quiet
        if output is None or table_file is None:
            summary = scoring.score_to_stream(source, scorer, sys.stdout, table, on_progress=bar.show)
        else:
            summary = scoring.score_to_table(
                source, scorer, table_file, table, restart=restart, ranks=ranks, on_progress=bar.show
            )
            if ranks.is_main:
                scoring.write_output(table_file, output, shards)
    if comments is not None:
        say(f"Comments were found on {scorer.commented:,} of {scorer.photos:,} photos.")
    if scorer.shrunk:
        say(
            f"{scorer.shrunk:,} of {scorer.photos:,} photos were shrunk as a whole, and nothing of them was seen at "
            "full resolution: so the checkpoint's processor treats photos of their size (its `size` and `overflow`)."
        )
    ranks.close()
    if ranks.is_main:
        _report_scores(summary, skipped, prune)
        if summary.chosen is not None and summary.delivered is not None:
            report_choice(summary.chosen, summary.delivered)
        if output is not None and not table.choice.takes_all:
            say(f"{output} holds every row, {scoring.chosen_file(Path(output))} those that were kept.")
        _close(summary, output or "standard output", bar.seconds)
    raise typer.Exit(EXIT_SOME_FAILED if summary.failed else EXIT_ALL_DONE)


def _check_patterns(paths: list[str]) -> None:
    for path in paths:
        if (
            "://" not in path
            and glob.has_magic(path)
            and not os.path.lexists(path)
            and not any(glob.iglob(path, recursive=True))
        ):
            raise ValueError(f"Found no images: nothing matches the pattern {path!r}.")


def _read_part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise ValueError(f"--shard: expected I/N, such as 1/4, got {text!r}.")
    return int(number), int(of)


def _close(summary: Summary, where: str, seconds: float) -> None:
    """The last line: what came of the run."""
    scored, rate = summary.images - summary.failed, (summary.images - summary.resumed) / max(seconds, 1e-3)
    say(
        f"{scored:,} scored, {summary.failed:,} failed → {where}, {rate:.1f} photos/s",
        event="done",
        scored=scored,
        failed=summary.failed,
        output=where,
        photos_per_second=round(rate, 3),
    )


_TICK_SECONDS = 1.0


class _ProgressBar:
    """A bar on standard error, from when something is done, with rate and time left; lines where JSON is asked for.

    It moves every second, so that a long batch does not look like a standstill.
    """

    def __init__(self) -> None:
        self.hidden = False
        self.bar: Any = None
        self.started = 0.0
        self.first = 0
        self._closed = Event()
        self._ticker: Thread | None = None

    @property
    def seconds(self) -> float:
        """Since the first image was taken up."""
        return time.monotonic() - self.started if self.started else 0.0

    def show(self, finished: int, count: int | None) -> None:
        """Draw that so many images are finished; those of the first call cost this run no time."""
        from tqdm import tqdm

        if self.bar is None:
            self.started = time.monotonic()
            as_lines = voice.log_format == "json"
            disable = self.hidden or as_lines
            self.bar = tqdm(
                total=count, initial=finished, unit=" images", file=sys.stderr, disable=disable, smoothing=0
            )
            self.bar.n = self.first = finished  # a bar that is not drawn does not count
            if not self.hidden:
                self._ticker = Thread(target=self._tick, args=[as_lines], daemon=True)
                self._ticker.start()
        self.bar.update(finished - self.bar.n)
        self.bar.n = finished

    def _tick(self, as_lines: bool) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            if not as_lines:
                self.bar.refresh()
                continue
            rate = (self.bar.n - self.first) / self.seconds
            left = None if not rate or self.bar.total is None else round((self.bar.total - self.bar.n) / rate, 1)
            facts = {"finished": self.bar.n, "images": self.bar.total, "seconds_left": left}
            say(f"{self.bar.n:,} images", event="progress", photos_per_second=round(rate, 3), **facts)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()
        if self.bar is not None:
            self.bar.close()


@contextmanager
def _exit_codes(resumable: bool) -> Iterator[_ProgressBar]:
    """Turn errors into messages and exit codes: wrong usage before the first image, a stop after it."""
    from charm_hf.scoring import ScoringInterrupted

    bar = _ProgressBar()
    go_on = " What is scored so far is kept: the same command goes on from there." if resumable else ""
    try:
        yield bar
    except ScoringInterrupted as interruption:
        bar.close()
        say(f"{interruption}{go_on}", "error")
        raise typer.Exit(_EXIT_SIGNAL + interruption.signal_number) from None
    except BrokenPipeError:  # whoever read the table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_ALL_DONE) from None
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        bar.close()
        if bar.bar is None:
            fail(error)
        say(f"Error: {error}{go_on}", "error")
        raise typer.Exit(EXIT_STOPPED) from None
    finally:
        bar.close()


def _report_scores(summary: Summary, skipped: Counter[str], pruned: bool) -> None:
    """Say on standard error what did not get a score, and why, and what was known before."""
    if summary.other_model:
        say("The table was another model's, or of other options: all photos were scored again.")
    if summary.unchanged or summary.changed or summary.vanished:
        new = summary.images - summary.unchanged - summary.changed
        say(f"{new:,} new photos, {summary.changed:,} scored again, {summary.unchanged:,} known from before.")
    if summary.vanished:
        what = "Dropped" if pruned else "Kept (--prune drops them)"
        say(f"{what} {summary.vanished:,} rows of photos that are not there any more.")
    for row in summary.failures:
        reason = row.error or ""
        same = summary.reasons[summary.reason(row)] - 1
        like = f" (and {same:,} more like it)" if same else ""
        say(f"not scored: {reason if row.path in reason else f'{row.path!r}: {reason}'}{like}")
    if summary.failed > summary.reasons.total():
        say(f"… and {summary.failed - summary.reasons.total():,} more: see the column `error`.")
    if skipped:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in skipped.most_common())
        say(f"Passed over {skipped.total():,} files in folders that are not taken for photos: {kinds}.")
