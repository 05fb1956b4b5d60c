"""`charm-hf serve`: scores for other programs, over HTTP. Thin: `charm_hf.serving` does it."""

from __future__ import annotations

from typing import Annotated

import typer

from .support import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    RevisionOption,
    SubfolderOption,
    TokenBudgetOption,
    TrustOption,
    WorkersOption,
    given,
    say,
    usage_errors,
)


app = typer.Typer()

_LOCAL = ("127.0.0.1", "localhost", "::1")


@app.command()
def serve(
    model: ModelOption = None,
    revision: RevisionOption = None,
    subfolder: SubfolderOption = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for one that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="CHARM_HF_TOKEN", help="Clients have to send it as a bearer token.")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch photos that clients name by URL: for clients you trust.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    token_budget: TokenBudgetOption = None,
    num_workers: WorkersOption = None,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = 64,
    max_images: Annotated[int, typer.Option(min=1, help="Of one request.")] = 64,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Of one image.")] = 100,
    max_waiting: Annotated[int, typer.Option(min=1, help="Images of all clients that wait for an answer.")] = 512,
    max_seconds: Annotated[float, typer.Option(min=1, help="For one request.")] = 60.0,
    trust_remote_code: TrustOption = False,
) -> None:
    """Score photos for other programs: POST /score, /rank, /embed; GET /health, /metrics, /docs.

    SIGTERM and Ctrl-C end it after the requests underway.
    """
    with usage_errors():
        try:
            import uvicorn

            from charm_hf.serving import ServiceLimits, create_app
        except ImportError as error:
            raise ImportError(
                f"The service needs `pip install 'charm-hf[serve]'` ({error.name} is missing)."
            ) from None
        from charm_hf import scoring
        from charm_hf.models.image_urls_charm import fetch_url
        from charm_hf.scoring.workers import default_workers

        if model is None:
            say(scoring.DEMONSTRATION_NOTICE)
        loaded, processor = scoring.load_for_scoring(
            model,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            **given(revision=revision, subfolder=subfolder),
        )
        scorer = scoring.Scorer(loaded, processor, scoring.ScoringOptions(token_budget=token_budget, embeddings=True))
        limits = ServiceLimits(max_megabytes * 2**20, max_images, max_megapixels * 10**6, max_waiting, max_seconds)
        workers = default_workers(None) if num_workers is None else num_workers
        application = create_app(
            scorer, limits, num_workers=workers, token=token or None, fetch=fetch_url if allow_urls else None
        )
    if host not in _LOCAL and not token:
        say("Warning: whoever reaches this address may use the service; --token asks for one.")
    uvicorn.run(application, host=host, port=port, access_log=False, timeout_graceful_shutdown=int(max_seconds))
