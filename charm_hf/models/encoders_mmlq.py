"""Where the encoders of a multi-modal learnable queries model come from: configurations, repositories, folders."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from .checkpoint_charm import find_commit, refuse_misfit
from .configuration_charm import CharmConfig
from .configuration_mmlq import as_encoder_config
from .modeling_charm import CharmForAestheticScoring, CharmModel


# What `from_pretrained` is told about where to look, as opposed to what to load: encoders are looked for there too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "trust_remote_code", "proxies")


# Parts that come after the `last_hidden_state` of an encoder, or are for its own pretraining.
_UNREAD = frozenset({"pooler", "head", "mask_token"})


def is_read(encoder: PreTrainedModel, name: str) -> bool:
    """Whether the features of an encoder depend on its parameter of this name."""
    unread = _UNREAD | ({"post_layernorm"} if encoder.config.model_type == "clip_vision_model" else set())
    return unread.isdisjoint(name.split("."))


def build_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Build a randomly initialized encoder."""
    return CharmModel(config) if config.model_type == CharmConfig.model_type else AutoModel.from_config(config)


def load_encoder(
    repository: str, revision: str | None, config: PretrainedConfig | None, tower: str, **kwargs: Any
) -> PreTrainedModel:
    """Load a pretrained encoder.

    Args:
        repository: name on the Hub, or a local folder. Of a two-tower checkpoint (CLIP) only the `tower` is loaded, of
            a Charm checkpoint only the encoder.
        revision: branch, tag or commit.
        config: what the encoder must look like; `None` takes the repository's own.
        tower: `"vision_config"` or `"text_config"`.
        **kwargs: for `from_pretrained`.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it lacks weights of the encoder.
    """
    if revision is not None:
        kwargs["revision"] = revision
    if config is None:
        where = {name: value for name, value in kwargs.items() if name in (*HUB_ARGUMENTS, "revision")}
        config = as_encoder_config(AutoConfig.from_pretrained(repository, **where), tower)
    is_charm = config.model_type == CharmConfig.model_type
    loader: Any = AutoModel
    if is_charm:
        loader = CharmModel if config.architectures == ["CharmModel"] else CharmForAestheticScoring
    encoder, info = loader.from_pretrained(repository, config=config, output_loading_info=True, **kwargs)
    # Many checkpoints come without the pooling layer, and nothing here reads it.
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    refuse_misfit(type(encoder).__name__, repository, missing=missing)
    return encoder.base_model if is_charm else encoder


def find_encoder(
    source: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
    revision: str | None,
    tower: str,
    **hub_arguments: Any,
) -> tuple[PreTrainedModel | None, str | None, str | None]:
    """Turn whatever `MmlqForAestheticScoring.from_encoders` takes into an encoder.

    Args:
        source: repository, folder, model, configuration or `None`.
        revision: branch, tag or commit.
        tower: `"vision_config"` or `"text_config"`.
        **hub_arguments: `cache_dir`, `token` …

    Returns:
        The encoder, the repository that holds its weights and the commit there; `None` where there is no such thing.
    """
    if source is None:
        return None, None, None
    if isinstance(source, PretrainedConfig):
        return build_encoder(as_encoder_config(source, tower)), None, None
    if isinstance(source, PreTrainedModel):
        if hasattr(source.config, tower):
            raise ValueError(f"{type(source).__name__} has two towers: pass the one that you mean, or its repository.")
        # A model in memory may have been trained since it was loaded, so its repository is not noted.
        return (source.base_model if source.config.model_type == CharmConfig.model_type else source), None, None
    repository = os.fspath(source)
    commit = resolve_commit(repository, revision, **hub_arguments)
    return load_encoder(repository, commit, None, tower, **hub_arguments), repository, commit


def resolve_commit(repository: str, revision: str | None, **hub_arguments: Any) -> str | None:
    """Return the commit that a revision of a repository points to now; `revision` itself for a local folder."""
    if os.path.isdir(repository):
        return revision
    where = {**hub_arguments, **({} if revision is None else {"revision": revision})}
    AutoConfig.from_pretrained(repository, **where)
    return find_commit(repository, **where) or revision


__all__ = ["build_encoder", "find_encoder", "is_read", "load_encoder"]
