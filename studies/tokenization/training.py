"""One run: a small vision transformer trained from scratch on cached tokens, the same way for every arm."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import ViTConfig

from charm_hf import CharmForAestheticScoring
from charm_hf.metrics import plcc, srcc
from charm_hf.training.loop import train_steps
from charm_hf.training.optimization import build_parameter_groups
from charm_hf.training.run_state import TrainingParts
from studies.tokenization.faults import FAULTS, Fault
from studies.tokenization.token_cache import TokenCache


IMAGENET_GREY = (0.449, 0.226)  # means of ImageNet's three channels
# Mean and deviation of pixels in [0, 1], one for all values of a token or one each.
Statistics = tuple[float, float] | tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Size of the model and of the training; the same for all arms of a study.

    Attributes:
        patch_size, max_num_patches: of the tokens.
        hidden_size, num_layers, num_heads: of the encoder; its MLP is twice as wide.
        updates, batch_size: optimizer steps, and images in each.
        learning_rate, weight_decay, warmup: of AdamW; the rate rises over `warmup` of the updates and then falls as a
            cosine to zero.
        evaluations: how often the validation part is looked at, evenly spread over the updates.
    """

    patch_size: int = 48
    max_num_patches: int = 121
    hidden_size: int = 48
    num_layers: int = 3
    num_heads: int = 3
    updates: int = 500
    batch_size: int = 8
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    evaluations: int = 5


@dataclass(frozen=True)
class Part:
    """Images of a cache and what is asked about them: `targets` (N, Q) in [0, 1], one column a question."""

    cache: TokenCache
    images: np.ndarray
    targets: np.ndarray


@dataclass
class Outcome:
    """What a run found out about one question.

    Attributes:
        srcc, plcc: on the test part, with the weights of the evaluation that was best on the validation part.
        best_epoch: passes through the training part at that evaluation.
        predictions: (N,) of the test part, in [0, 1].
    """

    srcc: float
    plcc: float
    best_epoch: float
    predictions: np.ndarray = field(repr=False)


def build_model(
    recipe: Recipe, num_scales: int, channels: int, num_questions: int, fault: Fault
) -> CharmForAestheticScoring:
    """A ViT with random weights and positions that start as sines and cosines, as is usual for training from scratch.

    The last question is the score; those before it are answered by the head's attribute outputs.
    """
    side = math.isqrt(recipe.max_num_patches)
    backbone = ViTConfig(
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        intermediate_size=2 * recipe.hidden_size,
        patch_size=recipe.patch_size,
        image_size=side * recipe.patch_size,
        num_channels=channels,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = CharmForAestheticScoring.from_backbone(
        backbone,
        num_scales=num_scales,
        num_attributes=num_questions - 1,
        classifier_dropout=0.0,
        position_mode=fault.position_mode,
    )
    with torch.no_grad():
        table = model.charm.backbone.embeddings.position_embeddings
        table[0, 1:] = sine_positions(side, recipe.hidden_size)
        # The usual 0.02 is meant for wide layers; in narrow ones it leaves every residual branch next to silent.
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "patch_embeddings" not in name:
                torch.nn.init.xavier_uniform_(module.weight)
    if fault.freeze_scales and model.charm.embeddings.scale_embeddings is not None:
        model.charm.embeddings.scale_embeddings.requires_grad_(False)
    return model


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column, (side², width)."""
    frequencies = math.pi * torch.logspace(0, math.log10(side / 2), width // 4)
    places = (torch.arange(side) + 0.5) / side
    waves = places[:, None] * frequencies
    one_axis = torch.cat([waves.sin(), waves.cos()], dim=1)
    rows = one_axis[:, None].expand(-1, side, -1)
    columns = one_axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def run(
    recipe: Recipe,
    train: Part,
    validation: Part | None,
    test: Part,
    seed: int,
    fault: str = "ours",
    augment: Callable[[dict[str, torch.Tensor], np.random.Generator], dict[str, torch.Tensor]] | None = None,
    device: str = "cpu",
    start: Path | None = None,
    normalize: Statistics = IMAGENET_GREY,
) -> tuple[list[Outcome], torch.nn.Module]:
    """Train a model and test it.

    Args:
        recipe: of the model and the training.
        train, validation, test: with the same questions. Without a validation part the last weights are tested.
        seed: of the weights, the order and the draws.
        fault: key of `FAULTS`.
        augment: applied to each training batch.
        device: to train on.
        start: checkpoint to start from, with a new classifier; without one, weights are drawn at random.
        normalize: mean and deviation of pixels.

    Returns:
        An outcome for each question, and the model with its last weights.
    """
    chosen = FAULTS[fault]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    channels = train.cache.arrays["pixel_values"].shape[-1] // recipe.patch_size**2
    num_questions = train.targets.shape[1]
    if start is None:
        model = chosen.wrap(build_model(recipe, train.cache.num_scales, channels, num_questions, chosen))
    else:
        model = CharmForAestheticScoring.from_pretrained(start)
        torch.nn.init.zeros_(model.classifier.weight)
        torch.nn.init.zeros_(model.classifier.bias)
        if device == "cpu":  # the fused attention goes backward three times as slowly there
            model.set_attn_implementation("eager")
    model.to(device)
    groups = build_parameter_groups(model, recipe.learning_rate, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    normalize = chosen.normalize or normalize
    pad_to = recipe.max_num_patches if chosen.pads_to_limit else 0
    every = max(1, recipe.updates // recipe.evaluations)
    best: dict[int, tuple[float, int, dict[str, torch.Tensor]]] = {}

    def drawn() -> Iterator[dict[str, torch.Tensor]]:
        for rows in _order(len(train.images), recipe, chosen.shuffles, rng):
            model.train()
            draws = rng.integers(train.cache.num_draws, size=len(rows))
            batch = train.cache.batch(train.images[rows], draws, normalize, pad_to)
            if augment is not None:
                batch = augment(batch, rng)
            yield {**batch, "targets": torch.from_numpy(train.targets[rows]).float()}

    parts, accelerator = TrainingParts(model, optimizer, scheduler), Accelerator(cpu=device == "cpu")
    for update, _ in enumerate(train_steps(parts, drawn(), _loss, accelerator=accelerator), start=1):
        if validation is not None and (update % every == 0 or update == recipe.updates):
            predicted = predict(model, validation, normalize, pad_to)
            weights = copy.deepcopy(model.state_dict())
            for question in range(num_questions):
                found = float(srcc(predicted[:, question], validation.targets[:, question]))
                if question not in best or found > best[question][0]:
                    best[question] = (found, update, weights)
    last = copy.deepcopy(model.state_dict())
    outcomes = []
    tested: dict[int, np.ndarray] = {}
    for question in range(num_questions):
        _, update, weights = best.get(question, (0.0, recipe.updates, last))
        if update not in tested:
            model.load_state_dict(weights)
            tested[update] = predict(model, test, normalize, pad_to)
        predicted = tested[update][:, question]
        references = test.targets[:, question]
        epoch = update * recipe.batch_size / len(train.images)
        outcomes.append(
            Outcome(float(srcc(predicted, references)), float(plcc(predicted, references)), epoch, predicted)
        )
    model.load_state_dict(last)
    return outcomes, model


def _rate(step: int, recipe: Recipe) -> float:
    warmup = max(1, round(recipe.warmup * recipe.updates))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.updates - warmup)))


def _order(count: int, recipe: Recipe, shuffles: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of each batch; every epoch another order, or always the same."""
    rows: list[np.ndarray] = []
    while sum(len(part) for part in rows) < recipe.updates * recipe.batch_size:
        rows.append(rng.permutation(count) if shuffles else np.arange(count))
    flat = np.concatenate(rows)[: recipe.updates * recipe.batch_size]
    return list(flat.reshape(recipe.updates, recipe.batch_size))


def _answers(outputs: Any) -> torch.Tensor:
    """All answers in [0, 1], (B, Q): the attributes, then the score."""
    score = outputs.normalized_scores[:, None]
    return score if outputs.attributes is None else torch.cat([(outputs.attributes + 1) / 2, score], dim=1)


def _loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
    return (_answers(model(**inputs)) - batch["targets"]).square().mean()


@torch.no_grad()
def predict(
    model: torch.nn.Module, part: Part, normalize: Statistics = IMAGENET_GREY, pad_to: int = 0, draw: int = 0
) -> np.ndarray:
    """Answers in [0, 1], (N, Q), from one draw of each image."""
    model.eval()
    answers = []
    device = next(model.parameters()).device
    for images in np.array_split(part.images, math.ceil(len(part.images) / 32)):
        batch = part.cache.batch(images, np.full(len(images), draw), normalize, pad_to)
        answers.append(_answers(model(**{name: tensor.to(device) for name, tensor in batch.items()})).cpu())
    return torch.cat(answers).double().numpy()


def gmacs(recipe: Recipe, tokens: float, channels: int) -> float:
    """Billions of multiply-accumulates to score one image of so many tokens (CLS is added)."""
    width, length = recipe.hidden_size, tokens + 1
    projection = tokens * channels * recipe.patch_size**2 * width
    layer = length * (4 * width**2 + 2 * width * 2 * width) + 2 * length**2 * width
    return (projection + recipe.num_layers * layer) / 1e9


def stack_targets(factors: Sequence[dict[str, float]], questions: Sequence[str]) -> np.ndarray:
    """Planted factors as (N, Q), in the order of the questions."""
    return np.array([[row[question] for question in questions] for row in factors])
