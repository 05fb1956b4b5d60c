"""Command lines whose flags can also stand in a YAML file, under the same names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


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


def size(text: str) -> float | int:
    """Type of a flag that takes a share (0.05) or a number (500)."""
    return int(text) if text.isdigit() else float(text)


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; where it is silent, the file given as `--config` speaks.

    Args:
        parser: its `--config` flag is added here.
        argv: the command line; `sys.argv[1:]` if not given.

    Returns:
        What `parser` returns. A wrong file, an unknown key in it or a value of another type ends the program with
        usage status 2, as a wrong flag does.
    """
    parser.add_argument("--config", type=Path, help="YAML file with these flags as keys; the command line wins")
    given, _ = _config_parser().parse_known_args(argv)
    if given.config is not None:
        parser.set_defaults(**_read_config(parser, given.config))
    return parser.parse_args(argv)


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser


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
        return None
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
