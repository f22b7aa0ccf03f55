"""The systems, one file each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ganvas.errors import GanvasError, did_you_mean

if TYPE_CHECKING:
    from ganvas.systems.base import System
    from ganvas.text.encoder import TextEncoder

# name -> (module, class, settings class)
_SYSTEMS = {
    "alr-gan": ("alr_gan", "AlrGan", "AlrGanSettings"),
    "attngan": ("attngan", "AttnGan", "AttnGanSettings"),
    "classifier": ("classifier", "Classifier", "ClassifierSettings"),
    "damsm": ("damsm", "DamsmEncoders", "DamsmSettings"),
    "gan-int-cls": ("gan_int_cls", "GanIntCls", "GanIntClsSettings"),
    "retriever": ("retriever", "Retriever", "RetrieverSettings"),
    "sd-gan": ("sd_gan", "SdGan", "SdGanSettings"),
    "stackgan": ("stackgan", "StackGan", "StackGanSettings"),
    "stackgan++": ("stackgan_v2", "StackGanV2", "StackGanV2Settings"),
    "xmc-gan": ("xmc_gan", "XmcGan", "XmcGanSettings"),
}


@dataclass(frozen=True)
class SystemEntry:
    """One system of the registry: its class, and the dataclass of its settings."""

    name: str
    system: type[System]
    settings: type[Any]

    def build(self, settings: Any, text_encoder: TextEncoder, image_size: int) -> System:
        """Make the system.

        Args:
            settings: an instance of ``self.settings``.
            text_encoder: captions to text.
            image_size: S, pixels.
        """
        make: Any = self.system
        built: System = make(settings, text_encoder, image_size)
        return built


def list_systems() -> list[str]:
    """The names of the systems that Ganvas knows."""
    return sorted(_SYSTEMS)


def find(name: str) -> SystemEntry:
    """The system called ``name``.

    Raises:
        GanvasError: there is none.
    """
    if name not in _SYSTEMS:
        raise GanvasError(f"no system '{name}'; {did_you_mean(name, _SYSTEMS)}")
    file, system, settings = _SYSTEMS[name]
    module = import_module(f"ganvas.systems.{file}")
    return SystemEntry(name, getattr(module, system), getattr(module, settings))
