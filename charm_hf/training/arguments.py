"""Command lines whose flags can also stand in a YAML file, and the flags that the training scripts share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import SchedulerType

from charm_hf.data.readers import DATASET_NAMES


SCHEDULERS = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]


class _Loader(yaml.SafeLoader):
    """PyYAML takes `1e-5`, without a dot, for text; everybody who writes it means a number."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def mapping(text: str) -> dict[str, Any]:
    """Type of a flag that takes a YAML mapping, such as `'{model_type: vit, hidden_size: 192}'`."""
    value = yaml.load(text, _Loader)  # a subclass of SafeLoader
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a mapping such as '{{key: value}}', got {text!r}")
    return value


class MergedMapping(argparse.Action):
    """Action of a `mapping`: what the command line gives is laid over what the file gives, key by key."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Merge."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


MAPPING: dict[str, Any] = {"type": mapping, "action": MergedMapping, "default": {}, "metavar": "{KEY: VALUE}"}


def size(text: str) -> float | int:
    """Type of a flag that takes a share (0.05) or a number (500)."""
    return int(text) if text.isdigit() else float(text)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say which photos there are: of every script."""
    add = parser.add_argument
    add("--dataset_name", required=True, help=f"{', '.join(DATASET_NAMES)}, or a Hub dataset")
    add("--data_dir", help="folder of the official download, or a table with an image folder")
    add("--dataset_options", **MAPPING, help="further options of load_aesthetic_dataset")
    add("--validation_size", type=size, help="share or number of training photos, where no such part is official")
    add("--fold", type=int, help="cross-validation: hold this fold of the split out, counted from 0")
    add("--folds", **MAPPING, help="{number: 5, seed: 0, stratify_column: NAME}; that column is spread out evenly")
    add("--group_column", help="which series or pair a photo is of: the order within is measured, and may be trained")
    add("--num_workers", "--dataloader_num_workers", type=int, default=4, help="processes that read and tokenize")
    add("--per_device_eval_batch_size", type=int, default=16)
    add("--mixed_precision", choices=("no", "bf16"), default="no")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a model is trained and what is kept: of both training scripts."""
    add_data_flags(parser)
    add = parser.add_argument
    add("--train_split", default="train", help="several are joined with a plus: train+validation")
    add("--validation_split", default="validation", help='"none" trains without, and keeps the last epoch')
    add("--loss", choices=("auto", "emd", "mse"), default="auto", help="auto: emd for distributions, mse for scores")
    add("--correlation_weight", type=float, default=0.0, help="weight of 1 - PLCC of the batch, added to the loss")
    add("--ranking_weight", type=float, default=0.0, help="weight of the order of pairs within --group_column")
    add("--per_device_train_batch_size", type=int, default=16)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=1e-5)
    add("--learning_rates", **MAPPING, help="of parts: {embeddings: 1e-6, head: 1e-3, layer_decay: 0.8}")
    add("--weight_decay", type=float, default=0.02)
    add("--max_grad_norm", type=float, default=1.0)
    add("--num_train_epochs", type=int, default=30)
    add("--lr_scheduler_type", choices=SCHEDULERS, default="cosine_with_min_lr")
    add("--lr_scheduler_kwargs", **MAPPING, help="default for cosine_with_min_lr: {min_lr: 1e-6}")
    add("--num_warmup_steps", type=int, default=0)
    add("--ema_decay", type=float, help="evaluate and keep a moving average of the weights")
    add("--seed", type=int, default=0)
    add("--output_dir", type=Path, required=True)
    add("--metric_for_best_model", choices=("plcc", "srcc", "last"), default="plcc", help="last: choose no epoch")
    add("--early_stopping_patience", type=int, help="stop after so many epochs without a better one")
    add("--checkpointing_steps", default="epoch", help='optimizer steps between checkpoints, or "epoch"')
    add("--save_total_limit", type=int, default=2, help="number of checkpoints to keep")
    add("--resume_from_checkpoint", help='"latest", or a checkpoint folder')
    add("--report_to", help="track the run with tensorboard, wandb, … or all")
    add("--push_to_hub", metavar="OWNER/NAME", help="repository for the finished model")


def parse_training_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a training script; ends the program with status 2 if flags do not fit together."""
    args = parse_arguments(parser, argv)
    steps = args.checkpointing_steps
    if steps != "epoch" and not (steps.isdigit() and int(steps)):
        parser.error(f'--checkpointing_steps takes a number of steps or "epoch", got {steps!r}')
    if args.ranking_weight and args.group_column is None:
        parser.error("--ranking_weight compares photos within --group_column NAME, which is not given")
    if unknown := sorted(set(args.learning_rates) - {"embeddings", "head", "layer_decay"}):
        parser.error(f"--learning_rates takes embeddings, head and layer_decay, got {', '.join(unknown)}")
    return args


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line (`sys.argv[1:]` if not given); where it is silent, the file given as `--config` speaks.

    The flag `--config` is added here. A wrong file, an unknown key in it or a value of another type ends the program
    with usage status 2, as a wrong flag does.
    """
    parser.add_argument("--config", type=Path, help="YAML file with these flags as keys; the command line wins")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    given, _ = first.parse_known_args(argv)
    if given.config is not None:
        parser.set_defaults(**_read_config(parser, given.config))
    return parser.parse_args(argv)


def _read_config(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a subclass of SafeLoader
    except (OSError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {error}")
    if not isinstance(content, dict):
        parser.error(f"--config {path}: expected flags as keys, `learning_rate: 1e-5`")
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    unknown = sorted(str(key) for key in set(content) - set(actions))
    if unknown:
        parser.error(f"--config {path}: unknown keys {', '.join(unknown)}; expected some of {', '.join(actions)}")
    for key, action in actions.items():
        # A value is required on the command line only if the file does not give it.
        action.required = action.required and content.get(key) is None
    return {key: _checked(parser, path, actions[key], value) for key, value in content.items()}


def _checked(parser: argparse.ArgumentParser, path: Path, action: argparse.Action, value: Any) -> Any:
    """Bring a value to the type that the flag gives on the command line."""
    if value is None:
        return {} if action.type is mapping else None
    if isinstance(action, (argparse._StoreTrueAction, argparse.BooleanOptionalAction)):
        fits = isinstance(value, bool)
    elif action.type is mapping:
        fits = isinstance(value, dict)
    else:
        fits = not isinstance(value, (bool, dict, list))
        try:
            value = action.type(str(value)) if fits and callable(action.type) else str(value) if fits else value
        except (ValueError, argparse.ArgumentTypeError):
            fits = False
    if not fits or (action.choices is not None and value not in action.choices):
        expected = f" (one of {', '.join(map(str, action.choices))})" if action.choices is not None else ""
        parser.error(f"--config {path}: {action.dest}: {value!r} is not what this flag takes{expected}")
    return value
