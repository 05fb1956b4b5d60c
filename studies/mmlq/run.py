"""Make the study of MMLQ again: features, runs, `results.csv`, and the tables of `docs/mmlq.md`.

    python -m studies.mmlq.run --data-dir PATH_TO_OASIS
    python -m studies.mmlq.run --data-dir PATH_TO_OASIS --vision-model REPO --text-model REPO

`--data-dir` holds `images/` and `ratings.csv` (columns `image`, `category`, `mean`). Without the other two flags the
encoders have random weights: small, frozen, and the same in every run. Each run leaves a line in `--results`; started
again, the command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, List, Value, disable_progress_bars
from transformers import BertConfig, BertTokenizer, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from charm_hf import MmlqForAestheticScoring, MmlqProcessor
from charm_hf.metrics import plcc, srcc
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.collator import CharmDataCollator
from charm_hf.training.feature_cache import FeatureDataset, FrozenFeatures
from charm_hf.training.loop import train_steps
from charm_hf.training.run_state import TrainingParts
from studies.mmlq.grammar import WORDS, Grammar, is_informative, known_answer
from studies.oasis.photos import OasisData, read_ratings
from studies.results import read_rows


HERE = Path(__file__).parent
ENCODER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
QUERIES = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
SCORE_VALUES = tuple(range(1, 8))


@dataclass(frozen=True)
class Arm:
    """One thing to try.

    Attributes:
        title: for the tables.
        fields: of `MmlqConfig`, where they differ from the defaults of the study.
        shuffled: give each photo the comments of another one.
        train_text_model: train the text encoder along.
    """

    title: str
    fields: dict[str, Any] = field(default_factory=dict)
    shuffled: bool = False
    train_text_model: bool = False


ARMS = {
    "both": Arm("image and comments"),
    "image": Arm("image only", {"num_textual_queries": 0}),
    "comments": Arm("comments only", {"num_visual_queries": 0}),
    "comments-bert-trained": Arm(
        "comments only, BERT trained along", {"num_visual_queries": 0}, train_text_model=True
    ),
    "shuffled": Arm("image and the comments of another photo", shuffled=True),
    "bert-trained": Arm("image and comments, BERT trained along", train_text_model=True),
    "dropout-0": Arm("`comment_dropout` 0", {"comment_dropout": 0.0}),
    "dropout-5": Arm("`comment_dropout` 0.5", {"comment_dropout": 0.5}),
    **{f"blocks-{count}": Arm(f"{count}", {"num_hidden_layers": count}) for count in (1, 2, 4, 5, 6)},
    **{
        f"queries-{count}": Arm(f"{count}", {"num_visual_queries": count, "num_textual_queries": count})
        for count in (1, 4, 8)
    },
    **{f"self-{kind}": Arm(f"`{kind}`", {"self_attention": kind}) for kind in ("shared", "separate", "joint")},
    "feed-separate": Arm("`separate`", {"feed_forward": "separate"}),
}
# What every arm changes one thing of: 3 blocks, 2 + 2 queries, no self-attention, shared feed-forward.
DEFAULTS = {"num_hidden_layers": 3, "self_attention": "none", "comment_dropout": 0.2, **QUERIES}


@dataclass(frozen=True)
class Result:
    """One run: rank and linear correlation on its test photos, with their comments and without, and what was read.

    Attributes:
        known: rank correlation of somebody who knows the grammar and has not seen the photos.
        attention_informative: mean attention of the textual queries to a word that depends on the rating, as a
            multiple of equal attention to all tokens.
        attention_other: to a word that does not.
    """

    arm: str
    seed: int
    srcc: float
    plcc: float
    srcc_no_comments: float
    known: float
    attention_informative: float
    attention_other: float
    parameters: int
    seconds: float


def read_photos(folder: Path) -> tuple[Dataset, np.ndarray]:
    """Photos with vote shares, and their mean ratings brought to [0, 1] by rank."""
    data = OasisData.read(folder)
    votes = np.array([[float(row[f"c{value}"]) for value in SCORE_VALUES] for row in read_ratings(folder)])
    shares = votes / votes.sum(axis=1, keepdims=True)
    scores = shares @ np.array(SCORE_VALUES)
    columns = {"image": Image(), "image_id": Value("string"), "score": Value("float64")}
    columns |= {"distribution": List(Value("float32")), "comments": List(Value("string"))}
    rows = {
        "image": [str(path) for path in data.paths],
        "image_id": [path.name for path in data.paths],
        "score": scores,
        "distribution": shares,
        "comments": [[] for _ in data.paths],
    }
    ranks = scores.argsort().argsort() / (len(scores) - 1)
    return Dataset.from_dict(rows, features=Features(columns)), ranks


def make_encoders(args: argparse.Namespace) -> tuple[Any, Any, MmlqProcessor]:
    """Vision encoder, text encoder (or their repositories), and the processor."""
    if args.vision_model and args.text_model:
        return args.vision_model, args.text_model, MmlqProcessor.from_encoders(args.vision_model, args.text_model)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    image_processor = ViTImageProcessorPil(size={"height": 128, "width": 128})
    vision = ViTConfig(**ENCODER, image_size=128, patch_size=16)
    text = BertConfig(**ENCODER, vocab_size=len(vocabulary), max_position_embeddings=128)
    return vision, text, MmlqProcessor(image_processor, tokenizer, max_text_length=128)


def build_model(encoders: tuple[Any, Any], seed: int, **fields: Any) -> MmlqForAestheticScoring:
    """Queries initialized by a seed, over encoders that are the same for each."""
    torch.manual_seed(0)
    model = MmlqForAestheticScoring.from_encoders(*encoders, score_values=SCORE_VALUES, **{**DEFAULTS, **fields})
    torch.manual_seed(1 + seed)
    for name, parameter in model.named_parameters():
        if "_model." not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=model.config.initializer_range)
    return model


class Batches:
    """All photos of a run as tensors, each as often as it has sets of comments: (sets · photos, …).

    Args:
        sets: the photos with one set of comments after the other.
        features: filled for them.
        processor: the model's.
        tokens: give tokens instead of textual features, for a text encoder that is trained along.
    """

    def __init__(self, sets: Dataset, features: FrozenFeatures, processor: MmlqProcessor, tokens: bool) -> None:
        items = FeatureDataset(sets, features, "distribution")
        self.tensors = CharmDataCollator()([items[0, index] for index in range(len(sets))])
        encoded = processor.tokenize_comments(sets["comments"])
        self.words = [processor.tokenizer.convert_ids_to_tokens(row.tolist()) for row in encoded["input_ids"]]
        if tokens:
            del self.tensors["text_features"]
            self.tensors |= {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}

    def take(self, index: torch.Tensor, comments: bool = True) -> dict[str, torch.Tensor]:
        """Inputs of some rows; padding that none of them needs is cut off."""
        batch = {name: value[index] for name, value in self.tensors.items() if name not in ("index", "scores")}
        if not comments:
            batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
        length = max(1, int(batch["attention_mask"].sum(1).max()))
        for name in ("attention_mask", "text_features", "input_ids", "token_type_ids"):
            if name in batch:
                batch[name] = batch[name][:, :length]
        return batch


def train(model: MmlqForAestheticScoring, batches: Batches, rows: torch.Tensor, args: argparse.Namespace) -> None:
    """AdamW, one cycle of the learning rate, batches of 32, gradients clipped at 1.

    `rows` (sets, photos): at its turn, a photo shows any one of its crops, with the comments of the same set.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps, pct_start=0.1)

    def drawn() -> Iterator[dict[str, torch.Tensor]]:
        order = torch.empty(0, dtype=torch.long)
        for _ in range(args.steps):
            while len(order) < 32:
                order = torch.cat([order, torch.randperm(rows.shape[1])])
            photos, order = order[:32], order[32:]
            yield batches.take(rows[torch.randint(len(rows), (32,)), photos])

    model.train()
    deque(train_steps(TrainingParts(model, optimizer, schedule), drawn(), accelerator=Accelerator(cpu=True)), maxlen=0)
    model.eval()


@torch.no_grad()
def measure_attention(model: MmlqForAestheticScoring, batches: Batches, rows: torch.Tensor) -> tuple[float, float]:
    """Attention of the textual queries to words that say something, and to the others; 1 is equal attention to all."""
    if not model.config.num_textual_queries:
        return float("nan"), float("nan")
    batch = batches.take(rows)
    batch.pop("labels")
    outputs = model(**batch, output_attentions=True)
    weights = torch.stack(outputs.textual_attentions).mean(dim=(0, 2, 3))
    shares: dict[bool, list[float]] = {True: [], False: []}
    for place, row in enumerate(rows.tolist()):
        length = int(batch["attention_mask"][place].sum())
        for position, word in enumerate(batches.words[row][:length]):
            if word not in ("[CLS]", "[SEP]"):
                shares[is_informative(word)].append(float(weights[place, position]) * length)
    return float(np.mean(shares[True])), float(np.mean(shares[False]))


@torch.no_grad()
def measure_scores(
    model: MmlqForAestheticScoring, batches: Batches, rows: torch.Tensor, rated: np.ndarray, comments: bool
) -> tuple[float, float]:
    """SRCC and PLCC on photos rated (photos,), the mean over their sets of comments `rows` (sets, photos)."""
    scores = np.stack([model(**batches.take(row, comments)).scores.numpy() for row in rows])
    return mean_over_sets(srcc, scores, rated), mean_over_sets(plcc, scores, rated)


@dataclass
class Study:
    """What all runs share: encoders, their features, whole photos and crops of them, folds."""

    encoders: tuple[Any, Any]
    processor: MmlqProcessor
    features: FrozenFeatures
    photos: Dataset
    crops: Dataset
    folds: np.ndarray
    args: argparse.Namespace

    def batches(self, comments: list[list[str]], photos: Dataset, tokens: bool) -> Batches:
        """Photos with one set of comments after the other."""
        sets = len(comments) // len(photos)
        repeated = photos.select([*range(len(photos))] * sets).remove_columns("comments")
        said = repeated.add_column("comments", comments, feature=List(Value("string")))
        return Batches(said, self.features, self.processor, tokens)

    def run(self, name: str, seed: int, comments: list[list[str]]) -> Result:
        """Train one arm on crops of the photos of four folds, and test it on the whole photos of the fifth.

        Args:
            name: of the arm.
            seed: of the weights and of the order; also the fold that is tested.
            comments: on each photo, one set after the other.
        """
        arm, started = ARMS[name], time.process_time()
        rows = torch.arange(len(comments)).view(-1, len(self.photos))
        if arm.shuffled:
            others = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.photos)))
            comments = [comments[row] for row in rows[:, others].flatten().tolist()]
        model = build_model(self.encoders, seed, freeze_text_model=not arm.train_text_model, **arm.fields)
        tested = torch.from_numpy(self.folds == seed)
        train(model, self.batches(comments, self.crops, arm.train_text_model), rows[:, ~tested], self.args)
        whole = self.batches(comments, self.photos, arm.train_text_model)
        rated, held_out = np.array(self.photos["score"])[tested.numpy()], rows[:, tested]
        answers = np.stack([known_answer([comments[row] for row in part.tolist()]) for part in held_out])
        with_them, linear = measure_scores(model, whole, held_out, rated, comments=True)
        without, _ = measure_scores(model, whole, held_out[:1], rated, comments=False)
        return Result(
            name,
            seed,
            with_them,
            linear,
            without,
            mean_over_sets(srcc, answers, rated),
            *measure_attention(model, whole, held_out.flatten()),
            sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            time.process_time() - started,
        )


def mean_over_sets(measure: Callable[..., Any], scores: np.ndarray, rated: np.ndarray) -> float:
    """Mean of a correlation of scores (sets, photos) with ratings (photos,)."""
    return float(np.mean(measure(scores, np.broadcast_to(rated, scores.shape))))


def crop_photos(photos: Dataset, sets: int) -> Dataset:
    """Random crops of each photo, half of them mirrored, one after the other: (sets · photos) rows."""
    augment = TrainingAugmentation(flip=0.5, rotation=0.0, min_crop_area=0.4, max_crop_stretch=1.3)
    rows = photos.to_dict() | {"image": photos["image"][:]}
    repeated = {name: list(values) * sets for name, values in rows.items()}
    for index, image in enumerate(repeated["image"]):
        (crop,) = augment(image.convert("RGB"), seed=index)
        repeated["image"][index] = crop.resize((160, 128))
        repeated["image_id"][index] += f"#{index // len(photos)}"
    return Dataset.from_dict(repeated, features=photos.features)


def run_study(args: argparse.Namespace) -> None:
    """Run what is missing, and append it to the results."""
    torch.set_num_threads(1)
    disable_progress_bars()
    photos, ranks = read_photos(args.data_dir)
    vision, text, processor = make_encoders(args)
    done = {(row["arm"], int(row["seed"])) for row in read_rows(args.results)}
    whole = build_model((vision, text), 0)
    with tempfile.TemporaryDirectory() as folder:
        features = FrozenFeatures(folder, whole, processor, "float32")
        crops = crop_photos(photos, args.sets)
        folds = OasisData.read(args.data_dir).folds(0)
        study = Study((vision, text), processor, features, photos, crops, folds, args)
        for part in (photos, crops):
            features.fill(whole, part, Accelerator(cpu=True), batch_size=32)
        for seed in range(args.seeds):
            generator = np.random.default_rng(100 + seed)
            comments = [said for _ in range(args.sets) for said in Grammar().comments(ranks, generator)]
            said = crops.remove_columns("comments").add_column("comments", comments, feature=List(Value("string")))
            features.fill(whole, said, Accelerator(cpu=True), batch_size=32)
            for name in ARMS:
                if (name, seed) in done or (args.arms and name not in args.arms):
                    continue
                result = study.run(name, seed, comments)
                append_result(args.results, result)
                print(f"{name:14} seed {seed}  srcc {result.srcc:.3f}  without comments {result.srcc_no_comments:.3f}")


def append_result(path: Path, result: Result) -> None:
    """Add a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    row = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(result).items()}
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, then fill the tables of the page."""
    from studies.mmlq import report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--vision-model", help="repository or folder of a pretrained vision encoder")
    parser.add_argument("--text-model", help="repository or folder of a pretrained BERT-like encoder")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 6), help="each has its own fold for testing")
    parser.add_argument("--sets", type=int, default=8, help="sets of comments, and crops, a photo")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--no-report", action="store_true")
    args = parser.parse_args(argv)
    if bool(args.vision_model) != bool(args.text_model):
        parser.error("--vision-model and --text-model go together")
    run_study(args)
    if not args.no_report:
        report.main(["--results", str(args.results)])


if __name__ == "__main__":
    main()
