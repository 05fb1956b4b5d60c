import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from charm_hf import files
from charm_hf.training.optimization import make_ema
from charm_hf.training.run_state import (
    Progress,
    TrainingParts,
    find_state,
    load_state,
    save_state,
    saved_states,
)


def make_parts(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return TrainingParts(model, optimizer, scheduler, make_ema(model, 0.9))


def train(parts, steps):
    for _ in range(steps):
        parts.model(torch.randn(8, 3)).square().mean().backward()
        parts.optimizer.step()
        parts.optimizer.zero_grad()
        parts.scheduler.step()
        parts.ema.update_parameters(parts.model)


def test_what_is_loaded_goes_on_exactly_as_what_was_saved(tmp_path):
    accelerator = Accelerator(cpu=True)
    parts = make_parts()
    train(parts, 3)
    save_state(tmp_path, accelerator, parts, Progress(1, 2, 3, 0.1 + 0.2, [{"epoch": 1, "plcc": 1 / 3}]))
    train(parts, 4)
    other = make_parts(seed=9)
    progress = load_state(saved_states(tmp_path)[-1], accelerator, other)
    assert progress == Progress(1, 2, 3, 0.1 + 0.2, [{"epoch": 1, "plcc": 1 / 3}])
    train(other, 4)
    for name in ("model", "ema"):
        expected, found = getattr(parts, name).state_dict(), getattr(other, name).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert parts.scheduler.get_last_lr() == other.scheduler.get_last_lr()


def test_a_checkpoint_holds_no_pickle_and_names_its_tensors(tmp_path):
    parts = make_parts()
    train(parts, 1)
    save_state(tmp_path, Accelerator(cpu=True), parts, Progress(step=1))
    (folder,) = saved_states(tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        *("state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors", "rng-0.safetensors")
    }
    assert "2.weight|exp_avg_sq" in load_file(folder / "optimizer.safetensors")
    assert json.loads((folder / "state.json").read_text())["trained"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    parts = make_parts()
    for step in (1, 2, 10):
        save_state(tmp_path, Accelerator(cpu=True), parts, Progress(step=step), keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-00000002", "checkpoint-00000010"]
    assert find_state("latest", tmp_path).name == "checkpoint-00000010"


def test_a_process_that_dies_while_a_checkpoint_is_replaced_leaves_no_broken_one(tmp_path, monkeypatch):
    """The step's checkpoint is replaced by the epoch's, and the process dies in the deletion of the old."""
    parts, accelerator = make_parts(), Accelerator(cpu=True)
    save_state(tmp_path, accelerator, parts, Progress(step=1))

    def dies(folder, **kwargs):
        if (folder / "state.json").exists():
            (folder / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(files.shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, accelerator, parts, Progress(epoch=1, step=1))
    monkeypatch.undo()
    assert load_state(find_state("latest", tmp_path), accelerator, parts).epoch == 1


def test_another_number_of_processes_is_refused(tmp_path):
    parts, accelerator = make_parts(), Accelerator(cpu=True)
    save_state(tmp_path, accelerator, parts, Progress(step=1))
    state = tmp_path / "checkpoint-00000001" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "num_processes": 4}))
    with pytest.raises(ValueError, match="written by 4 processes"):
        load_state(state.parent, accelerator, parts)


def test_an_optimizer_of_other_parameters_is_refused(tmp_path):
    parts, accelerator = make_parts(), Accelerator(cpu=True)
    save_state(tmp_path, accelerator, parts, Progress(step=1))
    parts.optimizer = torch.optim.AdamW(parts.model[0].parameters())
    with pytest.raises(ValueError, match="optimizer of other parameters"):
        load_state(tmp_path / "checkpoint-00000001", accelerator, parts)


def test_a_path_that_is_no_checkpoint_is_an_error(tmp_path):
    assert find_state("latest", tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"state\.json"):
        find_state(str(tmp_path), tmp_path)


def test_the_best_epoch_is_the_earliest_of_equals_and_the_last_without_a_metric():
    history = [{"epoch": 1, "plcc": 0.2}, {"epoch": 2, "plcc": 0.5}, {"epoch": 3, "plcc": 0.5}]
    assert Progress(epoch=3, history=history).best("plcc")["epoch"] == 2
    assert Progress(epoch=3, history=[{"epoch": 1}, {"epoch": 2}]).best("plcc")["epoch"] == 2


@pytest.mark.parametrize(("patience", "over"), [(None, False), (1, True), (2, False)])
def test_patience_ends_a_run_that_gets_no_better(patience, over):
    progress = Progress(epoch=2, history=[{"epoch": 1, "plcc": 0.5}, {"epoch": 2, "plcc": 0.4}])
    assert progress.is_over(9, "plcc", patience) is over
    assert progress.is_over(2, "plcc", patience)
    assert not Progress().is_over(1, "plcc", patience)


def test_the_average_follows_the_weights_and_forgets_the_start():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 100.0)
    ema = make_ema(model, 0.999)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(30):
        ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_ema(model, 1.0)


@pytest.mark.parametrize("damaged", ["model.safetensors", "optimizer.safetensors", "rng-0.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_taken(tmp_path, caplog, damaged):
    accelerator, parts = Accelerator(cpu=True), make_parts()
    for step in (1, 2):
        train(parts, 1)
        save_state(tmp_path, accelerator, parts, Progress(step=step, epoch_loss=0.25))
    older, newest = saved_states(tmp_path)
    content = bytearray((newest / damaged).read_bytes())
    place = content.index(b"0.25") + 3 if damaged == "state.json" else len(content) - 5
    content[place] ^= 1  # of the same length: no size gives it away
    (newest / damaged).write_bytes(content)
    assert find_state("latest", tmp_path) == older
    assert f"{newest} is damaged" in caplog.text
    with pytest.raises(ValueError, match="damaged"):
        find_state(str(newest), tmp_path)
    (older / "model.safetensors").write_bytes(bytes((older / "model.safetensors").stat().st_size))
    with pytest.raises(ValueError, match="All checkpoints in .* are damaged"):
        find_state("latest", tmp_path)
