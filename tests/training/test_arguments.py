import argparse

import pytest

from charm_hf.training.arguments import mapping, parse_arguments, size


def parse(tmp_path, content, *argv):
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--part", type=size)
    parser.add_argument("--loss", choices=("emd", "mse"), default="emd")
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--shape", type=mapping)
    return parse_arguments(parser, ["--config", str(tmp_path / "c.yaml"), *argv])


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    args = parse(tmp_path, "data: a\nrate: 2\nepochs: 7\n", "--rate", "3")
    assert (args.data, args.rate, args.epochs, args.loss) == ("a", 3.0, 7, "emd")


def test_numbers_with_an_exponent_and_no_dot_are_numbers(tmp_path):
    args = parse(tmp_path, "data: a\nrate: 1e-5\nshape: {min_lr: 1e-6, name: e5}\n")
    assert args.rate == 1e-5
    assert args.shape == {"min_lr": 1e-6, "name": "e5"}
    assert parse(tmp_path, "data: a", "--shape", "{min_lr: 1e-6}").shape == {"min_lr": 1e-6}


@pytest.mark.parametrize(("text", "expected"), [("0.05", 0.05), ("500", 500), ("null", None)])
def test_a_size_is_a_share_or_a_number(tmp_path, text, expected):
    part = parse(tmp_path, f"data: a\npart: {text}\n").part
    assert part == expected
    assert type(part) is type(expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: a\nlearning: 1\n", "unknown keys learning"),
        ("data: a\nepochs: many\n", "epochs: 'many' is not what this flag takes"),
        ("data: a\nepochs: [1]\n", "epochs"),
        ("data: a\nloss: l1\n", "one of emd, mse"),
        ("data: a\nfreeze: 3\n", "freeze"),
        ("data: a\nshape: 3\n", "shape"),
        ("rate: 1\n", "--data"),
        ("- a\n", "expected flags as keys"),
        ("a: [", "c.yaml"),
    ],
)
def test_a_wrong_file_is_wrong_usage(tmp_path, capsys, content, message):
    with pytest.raises(SystemExit) as stop:
        parse(tmp_path, content)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(argparse.ArgumentParser(), ["--config", str(tmp_path / "none.yaml")])
    assert "none.yaml" in capsys.readouterr().err
