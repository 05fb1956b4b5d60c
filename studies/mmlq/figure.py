"""Draw the architecture of MMLQ as it is built: shapes and parameter counts come from the model itself.

python -m studies.mmlq.figure
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch

from charm_hf import MmlqConfig, MmlqForAestheticScoring


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


FIGURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "mmlq.svg"
FROZEN, VISUAL, TEXTUAL, SHARED = "#dfe3e8", "#cfe3f7", "#fbe0c3", "#dcefd9"


def count(module: torch.nn.Module | torch.Tensor) -> str:
    """Number of parameters, in millions."""
    tensors = [module] if isinstance(module, torch.Tensor) else module.parameters()
    return f"{sum(tensor.numel() for tensor in tensors) / 1e6:.2f} M"


class Canvas:
    """Boxes and arrows on axes of 15 × 8.5 units."""

    def __init__(self) -> None:
        self.figure, self.axes = plt.subplots(figsize=(15, 8.5))
        self.axes.set(xlim=(0, 15), ylim=(0, 8.5))
        self.axes.axis("off")

    def box(
        self, x: float, y: float, width: float, height: float, text: str, colour: str, dashed: bool = False
    ) -> None:
        """A box whose lower left corner is (x, y)."""
        style = "--" if dashed else "-"
        patch = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.1", fc=colour, ec="#333333", ls=style
        )
        self.axes.add_patch(patch)
        self.axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From one point to another."""
        self.axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1.2})

    def note(self, x: float, y: float, text: str, **style: object) -> None:
        """Text without a box."""
        self.axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": 9, "color": "#333333", **style})


def draw(path: Path) -> None:
    """Draw the default model into a file."""
    config = MmlqConfig()
    with torch.device("meta"):
        model = MmlqForAestheticScoring(config)
    base, block = model.mmlq, model.mmlq.blocks[0]
    width, vision, text = config.hidden_size, config.vision_config, config.text_config
    tokens = 1 + (vision.image_size // vision.patch_size) ** 2
    length = text.max_position_embeddings
    canvas = Canvas()

    rows = {"visual": 6.1, "textual": 2.1}
    canvas.box(0.1, rows["visual"], 1.3, 1.0, "photo", "white")
    canvas.box(0.1, rows["textual"], 1.3, 1.0, "comments,\njoined\n(or none)", "white")
    canvas.box(
        1.9,
        rows["visual"],
        2.1,
        1.0,
        f"vision encoder, frozen\nCLIP · SigLIP\nDINOv2 · ViT · Charm\n{count(base.vision_model)}",
        FROZEN,
    )
    canvas.box(1.9, rows["textual"], 2.1, 1.0, f"text encoder, frozen\nBERT-like\n{count(base.text_model)}", FROZEN)
    canvas.box(4.5, rows["visual"], 1.4, 1.0, f"features\n{tokens} × {vision.hidden_size}\nLayerNorm", VISUAL)
    canvas.box(4.5, rows["textual"], 1.4, 1.0, f"features\n≤ {length} × {text.hidden_size}", TEXTUAL)
    for y in rows.values():
        canvas.arrow((1.4, y + 0.5), (1.9, y + 0.5))
        canvas.arrow((4.0, y + 0.5), (4.5, y + 0.5))
        canvas.arrow((5.9, y + 0.5), (7.85, y + 0.5))

    canvas.box(6.35, 0.75, 4.55, 7.1, "", "#fafafa")
    canvas.note(8.6, 7.65, f"interaction block × {config.num_hidden_layers}, {count(block)} each", fontweight="bold")
    queries = f"{config.num_visual_queries} × {width}"
    canvas.box(6.5, 4.55, 1.2, 0.9, f"visual\nqueries\n{queries}", VISUAL)
    canvas.box(6.5, 3.55, 1.2, 0.9, f"textual\nqueries\n{queries}", TEXTUAL)
    canvas.box(4.35, 3.3, 1.7, 0.9, f"“no comment”\nqueries {queries}", TEXTUAL, dashed=True)
    canvas.arrow((6.05, 3.8), (6.5, 3.9))
    canvas.note(5.2, 4.5, "instead, where\nnothing was said", fontsize=8)
    attention = f"self-\nattention\n\nshared*\nseparate\njoint\nnone\n{count(block.self_attention)}"
    canvas.box(7.85, 3.6, 0.85, 1.8, attention, SHARED, dashed=True)
    canvas.box(7.85, rows["visual"], 1.45, 1.0, f"cross-attention\n{count(block.cross_attention['visual'])}", VISUAL)
    canvas.box(
        7.85, rows["textual"], 1.45, 1.0, f"cross-attention\n{count(block.cross_attention['textual'])}", TEXTUAL
    )
    canvas.box(
        9.75, 3.6, 1.0, 1.8, f"feed-\nforward\n\nshared*\nseparate\n{count(block.feed_forward)}", SHARED, dashed=True
    )
    canvas.arrow((7.7, 5.0), (7.85, 5.0))
    canvas.arrow((7.7, 4.0), (7.85, 4.0))
    canvas.arrow((8.5, 5.4), (8.5, rows["visual"]))
    canvas.arrow((8.5, 3.6), (8.5, rows["textual"] + 1.0))
    canvas.arrow((9.3, rows["visual"] + 0.3), (10.0, 5.4))
    canvas.arrow((9.3, rows["textual"] + 0.7), (10.0, 3.6))
    canvas.note(8.6, 1.35, "every layer: LayerNorm on its queries, residual, dropout", fontsize=8)
    canvas.note(8.6, 1.0, "dashed: replaceable, * is the default", fontsize=8)

    canvas.box(11.2, 4.55, 1.1, 0.9, "LayerNorm,\nmean", VISUAL)
    canvas.box(11.2, 3.55, 1.1, 0.9, "LayerNorm,\nmean", TEXTUAL)
    canvas.arrow((10.75, 5.0), (11.2, 5.0))
    canvas.arrow((10.75, 4.0), (11.2, 4.0))
    canvas.box(
        12.7,
        3.6,
        1.15,
        1.8,
        f"head\n{2 * width} → {width}\nGELU\n{width} → {config.num_labels}\n{count(model.head)}",
        SHARED,
    )
    canvas.arrow((12.3, 5.0), (12.7, 4.75))
    canvas.arrow((12.3, 4.0), (12.7, 4.25))
    canvas.box(14.1, 3.6, 0.8, 1.8, "softmax\nover the\nrating\nbins\n\nmean =\nscore", "white")
    canvas.arrow((13.85, 4.5), (14.1, 4.5))
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    canvas.note(
        7.5, 0.3, f"trained: {trained / 1e6:.2f} M of {model.num_parameters() / 1e6:.1f} M parameters", fontsize=10
    )
    canvas.note(7.5, 8.25, "Multi-modal learnable queries, default shape", fontsize=12, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.figure.savefig(
        path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIGURE)
    plt.rcParams["svg.hashsalt"] = "mmlq"  # the same file each time
    plt.rcParams["svg.fonttype"] = "none"
    draw(parser.parse_args(argv).output)


if __name__ == "__main__":
    main()
