"""Put a finished checkpoint into the package as `charm-tiny`: `python -m studies.charm_tiny.publish HEADED`.

The weights are stored in half precision; prints the SHA-256 of each file.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from safetensors.torch import load_file, save_file

from charm_hf import CharmConfig, CharmImageProcessor, embedded_model_path


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    args = parser.parse_args()
    target = Path(embedded_model_path())
    config = CharmConfig.from_pretrained(args.checkpoint)
    config.dataset_name, config.architectures = "oasis", ["CharmForAestheticScoring"]
    config.to_json_file(target / "config.json", use_diff=True)
    processor = CharmImageProcessor.from_pretrained(args.checkpoint)
    processor.to_json_file(target / "preprocessor_config.json")
    # `dtype` of the configuration stays float32: the weights are widened again when they are loaded.
    weights = {name: tensor.half() for name, tensor in load_file(args.checkpoint / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    for path in sorted(target.iterdir()):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)


if __name__ == "__main__":
    main()
