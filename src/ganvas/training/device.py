"""Devices, precision and processes, by Lightning Fabric."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ganvas.errors import GanvasError, RunStopped, did_you_mean
from ganvas.recipe import TrainingSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # seconds, which only training should take

_DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The device called ``name``.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``mps``.

    Raises:
        GanvasError: unknown, or not on this machine.
    """
    if name not in _DEVICES:
        raise GanvasError(f"device '{name}': no such device; {did_you_mean(name, _DEVICES)}")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if here[kind]))
    if not here[name]:
        raise GanvasError(
            f"device '{name}': this machine has none that PyTorch can use; use device 'cpu' or 'auto'"
        )
    return torch.device(name)


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has bfloat16 matrix instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", _older_capabilities)()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def _older_capabilities() -> dict[str, bool]:
    """The same for PyTorch 2.8, which does not say it in public."""
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}


def choose_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is what the device is faster at."""
    if name != "auto":
        return name
    return "bfloat16" if fast_in_bfloat16(device) else "float32"


def machine_of(device: torch.device, num: int = 1) -> str:
    """A machine in words, ``Linux x86_64, 2 threads`` or ``Linux x86_64, 2 x NVIDIA H200``.

    Args:
        device: what computes.
        num: processes of a training, each with a device of its own.
    """
    times = f"{num} x " if num > 1 else ""
    if device.type == "cuda":
        used = f"{times}{torch.cuda.get_device_name(device)}"
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        used = f"{times}{threads} thread{'s' * (threads > 1)}"
    else:
        used = f"{times}{device.type}"
    return f"{platform.system()} {platform.machine()}, {used}"


def make_fabric(training: TrainingSettings) -> Fabric:
    """Fabric for these settings, launched.

    Raises:
        GanvasError: this machine has no such device, or too few of them.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    device = choose_device(training.device)
    here = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, training.num_devices)
    if training.num_devices > here:
        raise GanvasError(
            f"training.num_devices: {training.num_devices} are asked for, but this machine has {here} of"
            f" '{device.type}'"
        )
    precision = choose_precision(training.precision, device)
    fabric = Fabric(
        accelerator=device.type,
        devices=training.num_devices,
        strategy="ddp" if training.num_devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
    )
    fabric.launch()
    return fabric


class PeerLost(RunStopped):
    """Another process of this run ended before its work was done."""


def wait_for_all(fabric: Fabric) -> None:
    """Return once every process of the run has come here."""
    with _while_all_live():
        fabric.barrier()


def leave_ranks(fabric: Fabric) -> None:
    """End the connection to the other processes, once all of them are done. A process that ends with it open
    may die in its last moment, with a message that helps nobody.
    """
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def mean_over_ranks(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean of a tensor over all processes of the run, on each of them."""
    with _while_all_live():
        return cast(Tensor, fabric.all_reduce(values, reduce_op="mean"))


def average_gradients(fabric: Fabric, optimizer: torch.optim.Optimizer) -> None:
    """One exchange for all gradients of an optimizer."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = mean_over_ranks(fabric, torch.cat([grad.flatten() for grad in grads]))
    for grad, mean in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


@contextmanager
def _while_all_live() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise for a connection that is gone
        reason = str(error).strip().splitlines()[0]
        raise PeerLost(f"another process of this run has ended ({reason})") from None


def out_of_memory(error: BaseException) -> bool:
    """PyTorch says it with a class of its own on a GPU, and in words on a CPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)
