"""`transformers.Trainer` and `peft` with this package's model, and no loop of our own."""

import numpy as np
import pytest
import torch
from support import tiny_model, tiny_processor
from transformers import Trainer, TrainingArguments

from charm_hf import CharmForAestheticScoring, load_aesthetic_dataset
from charm_hf.metrics import make_compute_metrics
from charm_hf.training import CharmDataCollator


@pytest.fixture
def parts(photo_table):
    """Model, tokenized training and validation part."""
    model = tiny_model("dinov2", dataset=None, score_range=(1, 5), score_values=(1, 2, 3, 4, 5))
    processor = tiny_processor(model, max_num_patches=12)

    def tokenize(rows):
        photos = [processor(photo) for photo in rows["image"]]
        return {
            **{name: [photo[name] for photo in photos] for name in photos[0]},
            "labels": [torch.tensor(distribution) for distribution in rows["distribution"]],
        }

    splits = (load_aesthetic_dataset("csv", photo_table, split) for split in ("train", "validation"))
    return model, *(split.with_transform(tokenize) for split in splits)


def make_trainer(model, train, validation, folder, **more):
    arguments = TrainingArguments(
        str(folder),
        remove_unused_columns=False,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=3,
        learning_rate=1e-2,
        num_train_epochs=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **more,
    )
    return Trainer(
        model,
        arguments,
        data_collator=CharmDataCollator(),
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=make_compute_metrics(model.config),
    )


def test_trainer_trains_evaluates_and_saves(parts, tmp_path):
    model, train, validation = parts
    trainer = make_trainer(model, train, validation, tmp_path, eval_strategy="epoch")
    before = model.classifier.weight.clone()
    trainer.train()
    assert not torch.equal(before, model.classifier.weight)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_plcc", "eval_srcc", "eval_emd_r2"} <= metrics.keys()
    trainer.save_model(tmp_path / "saved")
    again = CharmForAestheticScoring.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_trainer_gathers_logits_and_scores_only(parts, tmp_path):
    model, train, validation = parts
    output = make_trainer(model, train, validation, tmp_path).predict(validation)
    logits, scores = output.predictions
    assert (logits.shape, scores.shape, output.label_ids.shape) == ((8, 5), (8,), (8, 5))
    photo = {name: value for name, value in validation[0].items() if name != "labels"}
    with torch.no_grad():
        assert scores[0] == pytest.approx(model(**photo).scores.item(), abs=1e-4)


def test_a_lora_adapter_attaches_trains_and_reloads(parts, tmp_path):
    peft = pytest.importorskip("peft", reason="LoRA adapters need the peft package, which is in the test extra")
    model, train, validation = parts
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, config)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    trainer = make_trainer(adapted, train, validation, tmp_path)
    trainer.train()
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    assert any("lora_B" in name for name in moved)
    expected = trainer.predict(validation).predictions[1]
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = tiny_model("dinov2", dataset=None, score_range=(1, 5), score_values=(1, 2, 3, 4, 5))
    reloaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    again = make_trainer(reloaded, train, validation, tmp_path).predict(validation).predictions[1]
    assert np.allclose(again, expected, atol=1e-5)
