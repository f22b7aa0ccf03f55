"""Copy a model folder with its weights in half precision, as the networks of scores are kept.

python tools/pack_model.py runs/retriever-emoji/model src/ganvas/scores/retrievers/emoji
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision; everything else as it is."""
    return {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in weights.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Copy a model folder with its weights in half precision.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    shutil.copytree(given.model, given.out, dirs_exist_ok=True)
    weights = load_file(given.model / "model.safetensors")
    halves = halved(weights)
    worst = max(
        float((value.float() - weights[name].float()).abs().max())
        for name, value in halves.items()
        if value.dtype == torch.float16
    )
    save_file(halves, given.out / "model.safetensors")
    size = (given.out / "model.safetensors").stat().st_size
    print(f"{given.out}: {size / 2**20:.1f} MiB, largest rounding {worst:.1e}")


if __name__ == "__main__":
    main()
