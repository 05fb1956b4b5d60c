"""Score images on a Ray cluster, from any filesystem that Ray reads to any that it writes.

    python examples/score_ray.py s3://bucket/photos s3://bucket/scores --model FatemehBehrad/Charm --actors 8 --gpus 1
    python examples/score_ray.py photos.parquet scores --image-column image --actors 2

The input is a folder of image files, or Parquet files (or a folder of them) with a column of encoded images. The
output is a folder of Parquet files. Needs `pip install "charm-hf[ray]"`.
"""

from __future__ import annotations

import argparse

import ray

from charm_hf.scoring import CharmScorer


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="Folder of images, Parquet file, or folder of Parquet files (--parquet).")
    parser.add_argument("output", help="Folder for the Parquet files with scores.")
    parser.add_argument("--model", help="Checkpoint; the embedded demonstration if not given.")
    parser.add_argument("--parquet", action="store_true", help="The input folder holds Parquet files.")
    parser.add_argument("--image-column", default="image", help="Column of encoded images in Parquet files.")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=64, help="Images that an actor is given at once.")
    parser.add_argument("--actors", type=int, default=1, help="Size of the actor pool; each holds a model.")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs an actor; 0.5 lets two share one.")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs an actor.")
    parser.add_argument("--address", help="Ray cluster; started on this machine if not given.")
    return parser.parse_args()


def read_images(args: argparse.Namespace) -> ray.data.Dataset:
    """A dataset of `image` (encoded) and, of files, `path`."""
    if args.parquet or args.input.endswith(".parquet"):
        return ray.data.read_parquet(args.input)
    return ray.data.read_binary_files(args.input, include_paths=True).rename_columns({"bytes": args.image_column})


def main() -> None:
    """Read, score, write."""
    args = parse_args()
    ray.init(address=args.address, log_to_driver=False)
    options = {"model": args.model, "image_column": args.image_column, "dtype": args.dtype, "drop_image": True}
    images = read_images(args)
    if "path" in images.schema().names:
        options["path_column"] = "path"
    scored = images.map_batches(
        CharmScorer,
        fn_constructor_kwargs=options,
        batch_size=args.batch_size,
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_gpus=args.gpus,
        num_cpus=args.cpus,
    )
    scored.write_parquet(args.output)


if __name__ == "__main__":
    main()
