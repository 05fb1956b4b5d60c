"""Train Charm on a dataset of rated photos.

    accelerate launch examples/train.py --config examples/configs/ava.yaml --data_dir AVA --output_dir runs/ava
    accelerate launch examples/train.py --config examples/configs/csv.yaml --data_dir my_photos --output_dir runs/mine

Every flag can stand in the YAML file under the same name; the command line wins. A run that was killed goes on, with
the same flags, where its last whole checkpoint stands, and ends with the weights it would have had:

    accelerate launch examples/train.py … --resume_from_checkpoint latest

The folder then holds a checkpoint for `from_pretrained` (best epoch), `README.md` (a draft of the model card),
`history.json`, `curves.png`, `run.json` (flags, versions and hashes of the splits), and the states to resume from.
"""

from __future__ import annotations

import argparse
import logging
import math

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.data import LabelScale
from charm_hf.data.saliency_maps import SaliencyFolder
from charm_hf.hub import draft_model_card, push_checkpoint
from charm_hf.models.configuration_charm import HEADS
from charm_hf.models.presets_charm import DATASET_PRESETS
from charm_hf.training.arguments import MAPPING, add_training_flags, parse_training_arguments
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.batches import EpochBatchSampler, TokenizedDataset, evaluation_batches, make_loader
from charm_hf.training.building import build_head, build_model, build_processor, label_column
from charm_hf.training.evaluation import measure
from charm_hf.training.inputs import INPUT_KINDS
from charm_hf.training.loop import Run
from charm_hf.training.mixout import add_mixout
from charm_hf.training.optimization import build_parts
from charm_hf.training.partition import load_training_parts
from charm_hf.training.run_folder import claim_output_dir, describe_run, exit_with_launcher


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_flags(parser)  # photos, optimization, what is kept
    add = parser.add_argument
    add("--model_name_or_path", help="pretrained backbone, or a Charm checkpoint for a warm start")
    add("--backbone", **MAPPING, help="instead: configuration of a backbone with random weights")
    add("--num_scales", type=int, default=2, help="of a new model; a Charm checkpoint keeps its own")
    add("--head", choices=("auto", *HEADS), default="auto", help="auto: as the labels are")
    add("--classifier_dropout", type=float, default=0.1)
    add("--freeze_backbone", action="store_true", help="train head and scale embeddings only")
    add("--mixout", type=float, default=0.0, help="probability of Mixout on the encoder")
    add("--input", choices=INPUT_KINDS, default="charm", help="what the model sees: Charm's tokens, or a baseline's")
    add("--saliency_dir", help="folder of saliency maps, for patch_selection: saliency")
    add("--processor", **MAPPING, help="parameters of CharmImageProcessor")
    add(
        "--train_processor",
        **{**MAPPING, "default": {"patch_selection": "random"}},
        help="those that differ in training; regions are drawn at random unless this says otherwise",
    )
    add(
        "--augmentation",
        **MAPPING,
        help="fields of TrainingAugmentation: {flip: 0.5, rotation: 0.5, min_crop_area: 1, max_crop_stretch: 1}",
    )
    args = parse_training_arguments(parser, argv)
    if args.input != "charm":
        args.num_scales = 1
        args.processor = {**args.processor, **INPUT_KINDS[args.input].processor}
        args.train_processor = {**args.train_processor, **INPUT_KINDS[args.input].train_processor}
    try:
        TrainingAugmentation(**args.augmentation)
    except TypeError as error:
        parser.error(f"--augmentation: {error}")
    return args


def build_network(
    args: argparse.Namespace, train: Dataset, scale: LabelScale
) -> tuple[CharmForAestheticScoring, CharmImageProcessor]:
    """The model, and the processor that fits it."""
    head = build_head(train, scale, args.head)
    head["num_attributes"] = len(train[0]["attributes"]) if "attributes" in train.column_names else 0
    head["classifier_dropout"] = args.classifier_dropout
    model = build_model(args.model_name_or_path, args.backbone, head, num_scales=args.num_scales)
    preset = args.dataset_name if args.dataset_name in DATASET_PRESETS else None
    processor = build_processor(args.model_name_or_path, model.config, preset, args.processor)
    if args.freeze_backbone:
        model.charm.backbone.requires_grad_(False)
    elif args.mixout:
        add_mixout([model.charm.backbone], args.mixout)
    return model, processor


def main(argv: list[str] | None = None) -> None:
    """Train, from the flags to the checkpoint."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, log_with=args.report_to, project_dir=args.output_dir / "logs"
    )
    world, rank = accelerator.num_processes, accelerator.process_index
    exit_with_launcher()

    # What to train on
    with accelerator.main_process_first():  # it writes seeded splits and mapped tables, the others find them
        train, validation, scale = load_training_parts(args)
    description = describe_run(__file__, args, argv, {"train": train, "validation": validation}, world)
    if accelerator.is_main_process:
        claim_output_dir(args.output_dir, description, resume=args.resume_from_checkpoint is not None)

    # What to train
    set_seed(args.seed)  # the same weights in every process
    model, processor = build_network(args, train, scale)
    groups = None if args.group_column is None else train[args.group_column][:]
    sampler = EpochBatchSampler(len(train), args.per_device_train_batch_size, args.seed, world, rank, groups)
    parts = build_parts(args, model, math.ceil(len(sampler) / args.gradient_accumulation_steps))
    run = Run(args, accelerator, parts, sampler)

    # How photos reach it
    label = label_column(args.loss, model.config, train.column_names)
    augmentation, kind = TrainingAugmentation(**args.augmentation), INPUT_KINDS[args.input]
    saliency = SaliencyFolder(args.saliency_dir) if args.saliency_dir else None
    options = (args.seed, kind.in_training, saliency, args.group_column)
    photos = TokenizedDataset(train, processor, label, augmentation, args.train_processor, *options)
    train_loader = make_loader(photos, sampler, args.num_workers, args.seed)
    eval_loader = None
    if validation is not None:
        options = (args.seed, kind.in_evaluation, saliency)
        photos = TokenizedDataset(validation, processor, label, None, None, *options)
        batches = evaluation_batches(len(validation), args.per_device_eval_batch_size, world, rank)
        eval_loader = make_loader(photos, batches, args.num_workers, args.seed)

    run.resume()
    while not run.is_over():
        record = run.train_epoch(train_loader, train["image_id"])
        if eval_loader is not None:
            record |= measure(run.scored_model, eval_loader, accelerator, validation, scale, label, args.group_column)
        run.end_epoch(record, processor)
    if best := run.finish():  # in the main process
        name = args.push_to_hub or args.output_dir.resolve().name
        draft_model_card(name, model.config, description, best).save(args.output_dir / "README.md")
        if args.push_to_hub:
            push_checkpoint(args.output_dir, args.push_to_hub)


if __name__ == "__main__":
    main()
