"""How well a trained model follows captions: R-precision of its images, of real ones, and of shuffled ones.

    python benchmarks/quality.py runs/gan-int-cls-emoji --data data/emoji-64 --out quality.json

The shuffled row is the level of chance, measured: every real image stands for the caption of another one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import machine, run_script, write_result

from ganvas.data.store import Store
from ganvas.pipeline import load
from ganvas.scores.pictures import generated, real
from ganvas.scores.retrieval import RetrievalProtocol, r_precision
from ganvas.sheets import save_png
from ganvas.training.samples import sample_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="a run or model folder")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--retriever", default="emoji", help="a dual encoder: a data set, a run, clip:NAME")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--sheet", type=Path, help="a PNG of captions spread evenly over the split")
    options = parser.parse_args()
    store, model = Store(options.data), load(options.model)
    shown = [
        generated(model, store, split=options.split),
        real(store, split=options.split),
        real(store, split=options.split, shuffled=True),
    ]
    scores = [
        r_precision(pictures, store, RetrievalProtocol(retriever=options.retriever)) for pictures in shown
    ]
    for score in scores:
        print(f"{score.facts['images']:<14} {score}")
    if options.sheet:
        save_png(sample_sheet(model, store, options.split, count=12), options.sheet)
    if options.out:
        result = {
            "recipe": model.recipe.name,
            "images_seen": model.trained,
            "scores": [score.to_dict() for score in scores],
            "machine": machine(torch.device("cpu")),
        }
        write_result(options.out, result)


if __name__ == "__main__":
    run_script(main)
