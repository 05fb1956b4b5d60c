"""How much shorter an epoch of MMLQ training is on features that were computed beforehand.

    python -m benchmarks.mmlq_feature_cache
    python -m benchmarks.mmlq_feature_cache --shape paper --photos 8 --batch-size 4

Encoders with random weights do the work of pretrained ones. The photos are 640 × 480 JPEG files, each with comments
of `--words` words; an epoch reads, encodes and trains (AdamW) as `examples/train.py` does, in one process.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Photo
from transformers import BertConfig, BertTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from charm_hf import MmlqForAestheticScoring, MmlqProcessor
from charm_hf.training.batches import EpochBatchSampler, make_loader
from charm_hf.training.feature_cache import FeatureDataset, FrozenFeatures
from charm_hf.training.mmlq import CommentedDataset


WORDS = [f"word{number}" for number in range(1000)]
# Width and depth of the encoders, and the rest of the model: ViT-S and a BERT as deep, or the paper's.
SHAPES = {
    "small": (
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "paper": (
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        {},
        {},
    ),
}


def make_photos(count: int, words: int) -> Dataset:
    """Photos with votes and comments, in the columns of the package's readers."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        blocks = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        content = io.BytesIO()
        Photo.fromarray(blocks).resize((640, 480), Photo.Resampling.BICUBIC).save(content, "JPEG")
        votes = generator.random(10)
        rows.append(
            {
                "image": {"bytes": content.getvalue(), "path": None},
                "image_id": str(number),
                "score": float(votes @ np.arange(1, 11) / votes.sum()),
                "distribution": (votes / votes.sum()).tolist(),
                "comments": [" ".join(generator.choice(WORDS, words))],
            }
        )
    columns = {"image": Image(), "image_id": Value("string"), "score": Value("float64")}
    columns |= {"distribution": List(Value("float32")), "comments": List(Value("string"))}
    return Dataset.from_list(rows, features=Features(columns))


def make_model(shape: str) -> tuple[MmlqForAestheticScoring, MmlqProcessor]:
    """Model with random weights, and its processor."""
    vision, text, queries = SHAPES[shape]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    model = MmlqForAestheticScoring.from_encoders(
        CLIPVisionConfig(**vision, image_size=224, patch_size=14), BertConfig(**text), **queries
    )
    # They cannot be found again, having no repository, but this run does not want to.
    model.config.vision_repository = model.config.text_repository = "random"
    image_processor = CLIPImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)
    return model, MmlqProcessor(image_processor, tokenizer)


def time_epoch(model: MmlqForAestheticScoring, photos: torch.utils.data.Dataset, batch_size: int) -> float:
    """Processor seconds that one epoch of training takes, which other programs on the machine do not change."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    loader = make_loader(photos, EpochBatchSampler(len(photos), batch_size))
    start = time.process_time()
    for batch in loader:
        inputs = {name: value for name, value in batch.items() if name not in ("index", "scores")}
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - start


def main() -> None:
    """Time an epoch on photos, the computation of the features, and an epoch on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1, help="a fixed number, or the ratio depends on the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dataset = make_photos(arguments.photos, arguments.words)
    model, processor = make_model(arguments.shape)
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    print(
        f"{arguments.shape}: {model.num_parameters() / 1e6:.1f} M parameters, {trainable / 1e6:.2f} M of them trained"
    )

    model.train()
    encoding = time_epoch(model, CommentedDataset(dataset, processor, "distribution"), arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        features = FrozenFeatures(folder, model, processor)
        start = time.process_time()
        features.fill(model, dataset, Accelerator(cpu=True), batch_size=arguments.batch_size)
        filling = time.process_time() - start
        size = sum(store.num_bytes() for store in (features.visual, features.textual) if store is not None)
        model.mmlq.drop_encoders()
        model.train()
        cached = time_epoch(model, FeatureDataset(dataset, features, "distribution"), arguments.batch_size)
    print(f"features: {filling:.1f} s once, {size / arguments.photos / 1e6:.2f} MB a photo on disk")
    print(f"epoch on photos: {encoding:.1f} s; on features: {cached:.2f} s; ratio {encoding / cached:.1f}")


if __name__ == "__main__":
    main()
