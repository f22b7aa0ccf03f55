"""Speed and size of a model, as ALR-GAN's table has them: parameters, FLOPs, milliseconds an image."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ganvas.errors import GanvasError
from ganvas.pipeline import Model
from ganvas.scores.score import Score

_CAPTION = "a small red bird with a white belly and black wings sits on a branch"


@dataclass(frozen=True, kw_only=True)
class SizeProtocol:
    """Everything that fixes the numbers, beside the machine."""

    batches: tuple[int, ...] = (1, 64)
    """Images generated at once, for each of which the time of an image is taken."""
    repeats: int = 10
    """Batches of which the median is taken, after two that do not count."""

    def __post_init__(self) -> None:
        if not self.batches or min(*self.batches, self.repeats) < 1:
            raise GanvasError("speed: batches and repeats should be at least 1")


def model_size(
    model: Model, protocol: SizeProtocol | None = None, *, folder: Path | None = None
) -> list[Score]:
    """How large a model is, and how fast on this machine.

    Args:
        model: that generates.
        protocol: batches and repeats.
        folder: the model's, or its run's, for its bytes.

    Returns:
        ``parameters`` of all that generating needs; ``FLOPs`` of one image, its caption encoded already (a
        multiplication and an addition are two); and for each batch ``ms per image``, the same way.

    Raises:
        GanvasError: it generates nothing.
    """
    if not model.system.generates:
        raise GanvasError(f"speed and size: '{model.recipe.name}' generates nothing")
    protocol = protocol or SizeProtocol()
    size = {"image_size": model.image_size}
    parameters = num_parameters(model)
    facts: dict[str, Any] = {"parts": parameters, "weight_bytes": _weight_bytes(model)}
    if folder is not None:
        folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
        facts["folder_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    scores = [
        Score(name="parameters", value=parameters["total"], better="lower", protocol=dict(size), facts=facts),
        Score(name="FLOPs", value=num_flops(model), better="lower", protocol=dict(size)),
    ]
    for batch in protocol.batches:
        seconds = _seconds(model, batch, protocol.repeats)
        each = [1000 * taken / batch for taken in seconds]
        scores.append(
            Score(
                name=f"ms per image, batch {batch}",
                value=statistics.median(each),
                better="lower",
                protocol={**size, **asdict(protocol), "batches": [batch], **machine(model.device)},
                facts={"rounds": each},
            )
        )
    return scores


def num_parameters(model: Model) -> dict[str, int]:
    """Parameters of each part that generating needs, and ``total``: discriminators are none of them."""
    parts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.system.named_children()
        if name not in model.system.training_only
    }
    return {**{name: count for name, count in parts.items() if count}, "total": sum(parts.values())}


def _weight_bytes(model: Model) -> int:
    return sum(
        value.numel() * value.element_size()
        for name, value in model.system.state_dict().items()
        if name.split(".", 1)[0] not in model.system.training_only
    )


@torch.no_grad()  # in inference mode the counter sees composite operations, and counts none of them
def num_flops(model: Model) -> int:
    """FLOPs of one image from its encoded caption."""
    generate = _generator(model, 1)
    with FlopCounterMode(display=False) as counter:
        generate()
    return int(counter.get_total_flops())


@torch.no_grad()
def _seconds(model: Model, batch: int, repeats: int) -> list[float]:
    generate = _generator(model, batch)
    taken = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        generate()
        taken.append(time.perf_counter() - began)
    return taken[2:]


def _generator(model: Model, batch: int) -> Any:
    """What generates ``batch`` images and waits until they are there."""
    text = model.system.embed([_CAPTION] * batch)
    noise = model.system.draw_noise(torch.empty(batch, device=model.device))

    def generate() -> None:
        model.system.generate(text, noise)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        elif model.device.type == "mps":
            torch.mps.synchronize()

    return generate


def machine(device: torch.device) -> Mapping[str, Any]:
    """What a time was taken on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{device.type}, {name}",
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "precision": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
