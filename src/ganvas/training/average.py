"""Moving averages of networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganvas.systems.base import System


class Average:
    """A copy of a system whose averaged modules follow the live ones; the other modules are shared.

    Parameters and floating-point buffers are averaged alike, so that running statistics belong to the weights
    they are used with. Early in a run the half-life is shorter (a twentieth of the images seen, as StyleGAN3
    does), so that the first sample sheets show something.

    Args:
        system: the live system.
        modules: those of its submodules to average.
        half_life: images.

    Attributes:
        system: what to generate with.
    """

    def __init__(self, system: System, modules: Sequence[nn.Module], half_life: int) -> None:
        averaged = {id(module) for module in modules}
        assert averaged <= {id(child) for child in system.children()}, (
            "averaged modules are children of the system"
        )
        shared = {id(m): m for m in system.children() if id(m) not in averaged}
        self.system: System = copy.deepcopy(system, memo=shared)
        self._half_life = half_life
        pairs = list(zip(system.children(), self.system.children(), strict=True))
        self._pairs = [(live, slow) for live, slow in pairs if live is not slow]
        for _, slow in self._pairs:
            slow.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, batch_size: int, images_seen: int) -> None:
        """Move the average one step towards the live networks."""
        half_life = min(self._half_life, images_seen / 20) if self._half_life else 0
        weight = 1 - 0.5 ** (batch_size / half_life) if half_life > 0 else 1.0
        for live, slow in self._pairs:
            live_floats, slow_floats = _floats(live), _floats(slow)
            torch._foreach_lerp_(slow_floats, live_floats, weight)
            for theirs, ours in zip(live.buffers(), slow.buffers(), strict=True):
                if not ours.is_floating_point():
                    ours.copy_(theirs)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the averaged weights to the live networks: what comes after a phase builds on them."""
        for live, slow in self._pairs:
            live.load_state_dict(slow.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors."""
        return {
            f"{i}.{name}": value
            for i, (_, slow) in enumerate(self._pairs)
            for name, value in slow.state_dict().items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        for i, (_, slow) in enumerate(self._pairs):
            head = f"{i}."
            slow.load_state_dict({k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)})


def _floats(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
