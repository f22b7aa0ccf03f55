"""Compare Ganvas with what official implementations compute.

Usage: python tests/parity/check.py PAIR.json [PAIR.json ...]

A pair is ``NAME.json`` with ``NAME.npz`` beside it: the JSON names the weights and inputs, which a fixed rule
makes from their names alone, and the npz holds the official outputs. Weights go through ``ganvas.convert``
into our model, and the largest error of every output, relative to the largest official value, is printed.

Exit status: 0 all outputs agree, 1 an output is off by more than 1e-3, 2 a pair cannot be read or run.

To add a system, write a function from a ``Pair`` to its outputs by name, register it with ``@system``, and
put it into a module here whose name ends in ``_pairs``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from pair import SYSTEMS, Pair, PairError  # noqa: E402

for _module in sorted(FOLDER.glob("*_pairs.py")):
    importlib.import_module(_module.stem)

LIMIT = 1e-3


@torch.no_grad()
def check(path: Path) -> dict[str, float]:
    """The relative error of every output of the pair at ``path``.

    Raises:
        PairError: it cannot be read or run.
    """
    pair = Pair.read(path)
    try:
        name = pair.about["system"]
        run = next((run for begins, run in SYSTEMS.items() if name.lower().startswith(begins.lower())), None)
        if run is None:
            raise PairError(f"no system '{name}' here; known: {', '.join(SYSTEMS)}")
        errors = dict(pair.errors(run(pair)))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PairError(f"cannot be run ({reason})") from None
    if not errors:
        raise PairError("names no outputs")
    return errors


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare Ganvas with what official implementations compute.")
    parser.add_argument("pairs", nargs="+", type=Path, metavar="PAIR.json")
    status = 0
    for path in parser.parse_args(arguments).pairs:
        try:
            errors = check(path)
        except PairError as problem:
            print(f"{path}: {problem}", file=sys.stderr)
            status = 2
            continue
        for name, error in errors.items():
            agrees = error <= LIMIT
            print(f"{path.stem}  {name}  {error:.2e}  {'ok' if agrees else 'DIFFERS'}")
            status = max(status, 0 if agrees else 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
