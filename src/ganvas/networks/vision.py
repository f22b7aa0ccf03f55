"""Vision transformers of the transformers library: CLIP's image side and DINOv2."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.networks.weights import NoFeatures


class Vision(nn.Module):
    """Images to one vector each.

    Args:
        model: of the transformers library.
        output: the field of its output that holds ``(B, D)``.
    """

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self._output = model, output

    def forward(self, images: Tensor) -> Tensor:
        """``(B, D)`` of images ``(B, 3, S, S)``."""
        found: Tensor = getattr(self.model(pixel_values=images), self._output)
        return found


def open_vision(features: str, kind: str, output: str, name: str) -> Vision:
    """Open a folder in the transformers format, or a repository of the hub or its cache.

    Args:
        features: name of the back-end, for the error line.
        kind: class of the transformers library.
        output: see ``Vision``.
        name: folder or repository.

    Raises:
        GanvasError: the library, the folder or the network is missing, or weights are.
    """
    try:
        import transformers
    except ImportError:
        raise NoFeatures(
            f"features '{features}': need the transformers library; pip install 'ganvas[transformer]'"
        ) from None
    chosen: Any = getattr(transformers, kind)
    logging: Any = transformers.logging
    level = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        model, report = chosen.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # the library raises what it likes
        reason = " ".join(str(error).split())[:160]
        raise NoFeatures(
            f"features '{features}': cannot open '{name}'; give a folder with config.json and"
            f" model.safetensors ({type(error).__name__}: {reason})"
        ) from None
    finally:
        logging.set_verbosity(level)
    if lacking := sorted(report["missing_keys"]):
        raise GanvasError(f"features '{features}': '{name}' lacks the weights '{lacking[0]}'")
    return Vision(model, output)
