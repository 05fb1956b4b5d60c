"""Where the encoders of a multi-modal learnable queries model come from: configurations, repositories, folders."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from .backbones_charm import BACKBONES
from .checkpoint_charm import find_commit, refuse_misfit
from .configuration_charm import CharmConfig
from .configuration_mmlq import ENCODER_NAMES, MmlqConfig, as_encoder_config
from .modeling_charm import CharmModel


# What `from_pretrained` is told about where to look, as opposed to what to load: encoders are looked for there too.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "trust_remote_code", "proxies")


# Parts that come after the `last_hidden_state` of an encoder, or are for its own pretraining.
_UNREAD = frozenset({"pooler", "head", "mask_token"})


def is_read(encoder: PreTrainedModel, name: str) -> bool:
    """Whether the features of an encoder depend on its parameter of this name."""
    native = getattr(encoder.config, "backbone_config", encoder.config)
    row = BACKBONES.get(native.model_type)
    unread = _UNREAD | ({row.pooled_norm} if row is not None and row.pooled_norm else set())
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
    loader: Any = CharmModel if config.model_type == CharmConfig.model_type else AutoModel
    encoder, info = loader.from_pretrained(
        repository, config=config, output_loading_info=True, **{"use_safetensors": True, **kwargs}
    )
    # Many checkpoints come without the pooling layer, and nothing here reads it.
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    refuse_misfit(type(encoder).__name__, repository, missing=missing)
    return encoder


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


class HoldsEncoders:
    """Part of a model that holds two pretrained encoders, frozen or not, in its checkpoint or beside it.

    Attributes:
        vision_model, text_model: `None` where there is no such modality, or the encoder was not loaded.
    """

    config: MmlqConfig
    dtype: torch.dtype
    device: torch.device
    training: bool
    vision_model: PreTrainedModel | None
    text_model: PreTrainedModel | None

    def _hold_encoder(self, modality: str, encoder: PreTrainedModel | None) -> PreTrainedModel | None:
        if modality not in self.config.modalities:
            return None
        tower = f"{ENCODER_NAMES[modality]}_config"
        if encoder is None and self.config.encoders_in_checkpoint:
            encoder = build_encoder(getattr(self.config, tower))
        if encoder is not None:
            setattr(self.config, tower, encoder.config)  # one object, so that changes reach the encoder
        return encoder

    def _encoders(self) -> list[tuple[PreTrainedModel, bool]]:
        """The encoders held, each with whether it is frozen."""
        pairs = (
            (self.vision_model, self.config.freeze_vision_model),
            (self.text_model, self.config.freeze_text_model),
        )
        return [(encoder, frozen) for encoder, frozen in pairs if encoder is not None]

    def get_main_encoder(self) -> PreTrainedModel:
        """The encoder whose embeddings count as the model's: of text, if it is held, else of images."""
        held = [encoder for encoder in (self.text_model, self.vision_model) if encoder is not None]
        if not held:
            raise NotImplementedError("The model holds no encoder: call `load_encoders()`.")
        return held[0]

    def freeze_encoders(self) -> None:
        """Switch gradients off in the encoders that the configuration freezes, and on in the others."""
        for encoder, frozen in self._encoders():
            for name, parameter in encoder.named_parameters():
                # Data-parallel training would wait for the gradient of what nothing reads.
                parameter.requires_grad_(not frozen and is_read(encoder, name))
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """Switch the training mode of the queries; frozen encoders stay in evaluation mode."""
        super().train(mode)  # type: ignore[misc]
        for encoder, frozen in self._encoders():
            if frozen:
                encoder.eval()
        return self

    def load_encoders(self, **hub_arguments: Any) -> None:
        """Fetch the encoders that are not held, from the repositories that the configuration names.

        Args:
            hub_arguments: `cache_dir`, `token`, `local_files_only` …

        Raises:
            OSError: if a repository cannot be reached.
            ValueError: if the configuration does not name one, or it lacks weights.
        """
        for name in (ENCODER_NAMES[modality] for modality in self.config.modalities):
            if getattr(self, f"{name}_model") is not None:
                continue
            repository = getattr(self.config, f"{name}_repository")
            revision = getattr(self.config, f"{name}_revision")
            if repository is None:
                raise ValueError(f"The model holds no {name} encoder, and `config.{name}_repository` names none.")
            config = getattr(self.config, f"{name}_config")
            encoder = load_encoder(repository, revision, config, f"{name}_config", dtype=self.dtype, **hub_arguments)
            setattr(self, f"{name}_model", encoder.to(self.device))
            setattr(self.config, f"{name}_config", encoder.config)
        self.freeze_encoders()

    def drop_encoders(self) -> None:
        """Let go of the encoders: enough for training on features, and a tenth of the memory.

        Raises:
            ValueError: if they could not be found again.
        """
        self.check_encoders_for_saving(include=False)
        self.vision_model = self.text_model = None
        self.config.encoders_in_checkpoint = False

    def check_encoders_for_saving(self, include: bool) -> None:
        """Raise `ValueError` if the encoders cannot be saved (`include`) or left out (not `include`)."""
        for name in (ENCODER_NAMES[modality] for modality in self.config.modalities):
            if include and getattr(self, f"{name}_model") is None:
                raise ValueError(
                    f"The {name} encoder was not loaded, so its weights cannot be saved: call `load_encoders()` first "
                    "or pass `include_encoders=False`."
                )
            if not include and not getattr(self.config, f"freeze_{name}_model"):
                raise ValueError(f"The {name} encoder is trained (`freeze_{name}_model=False`): it must be saved.")
            if not include and getattr(self.config, f"{name}_repository") is None:
                raise ValueError(
                    f"Without its weights the {name} encoder could not be found again: set `config.{name}_repository` "
                    f"and `config.{name}_revision`, or build the model with `from_encoders` from repositories."
                )


__all__ = ["HoldsEncoders", "build_encoder", "find_encoder", "load_encoder"]
