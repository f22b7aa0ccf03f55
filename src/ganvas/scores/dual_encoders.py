"""What ranks captions by images: the dual encoders that ship, those of a run, and CLIP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.pipeline import load
from ganvas.systems.retriever import Retriever
from ganvas.text import build
from ganvas.text.settings import TransformerSettings
from ganvas.training.device import choose_device

_CLIP = "clip:"
_CLIP_TOKENS = 77
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class DualEncoder(Protocol):
    """Images and captions to vectors of one space; any module with these can take R-precision."""

    def image_features(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, D)``."""

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """``(B, D)``; only their direction counts."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its weights, by name."""


def load_retriever(name: str, *, device: str = "cpu") -> tuple[DualEncoder, str]:
    """The dual encoder that ships for the data set ``name``, the one in the folder ``name``, or CLIP.

    Args:
        name: a data set, a run or model folder, or ``clip:`` and a folder or the name of a hub repository.
        device: where it computes; on another kind of device numbers differ in the last digits.

    Returns:
        The encoder, and what a protocol calls it: by its recipe, not by where it lies.

    Raises:
        GanvasError: there is none.
    """
    if name.startswith(_CLIP):
        place = name.removeprefix(_CLIP)
        return Clip(place).to(choose_device(device)), _CLIP + Path(place).name
    shipped = files("ganvas.scores") / "retrievers" / name
    if "/" not in name and name.isprintable() and shipped.is_dir():
        with as_file(shipped) as folder:
            return _opened(folder, device)[0], name
    if not Path(name).is_dir():
        raise GanvasError(
            f"no dual encoder ships for data set '{name}'; train one ('ganvas train retriever --data DIR')"
            " and give its run folder"
        )
    return _opened(Path(name), device)


def _opened(folder: Path, device: str) -> tuple[Retriever, str]:
    model = load(folder, device=device)
    if not isinstance(model.system, Retriever):
        raise GanvasError(f"{folder}: holds no dual encoder (system 'retriever')")
    return model.system, model.recipe.name


class Clip(nn.Module):
    """A pretrained CLIP model of the transformers library; images are scaled to its side, bicubic.

    Args:
        name: a folder, a repository in the hub's cache, or one to download.

    Raises:
        GanvasError: it cannot be opened; one line.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        here = Path(name).is_dir()
        settings = TransformerSettings(model=name, download=not here, num_words=_CLIP_TOKENS)
        try:
            self.text_encoder = build(settings)
            from transformers import CLIPModel

            opened: Any = CLIPModel.from_pretrained(
                name, use_safetensors=True, local_files_only=here, output_loading_info=True
            )
            whole, report = opened
            if report["missing_keys"]:
                raise ValueError(f"{min(report['missing_keys'])} is missing")
        except GanvasError as error:
            raise GanvasError(str(error).replace("text.model", f"{_CLIP}{name}", 1)) from None
        except Exception as error:  # the library raises what it likes
            reason = " ".join(str(error).split())[:200]
            raise GanvasError(f"{_CLIP}{name}: is no CLIP with both its halves ({reason})") from None
        self.vision: Any = whole.vision_model.float()
        self.projection: Any = whole.visual_projection.float()
        self.eval().requires_grad_(False)

    def image_features(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, D)``."""
        size = (self.vision.config.image_size,) * 2
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        mean, deviation = (images.new_tensor(c)[:, None, None] for c in (_CLIP_MEAN, _CLIP_DEVIATION))
        return cast(Tensor, self.projection(self.vision(((images + 1) / 2 - mean) / deviation).pooler_output))

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """``(B, D)``."""
        return self.text_encoder.encode(captions).sentence


def digest(encoder: DualEncoder) -> str:
    """SHA-256 of the weights, and of the text encoder's files, 16 digits."""
    found = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    text_encoder = getattr(encoder, "text_encoder", None)
    for name, text in sorted(text_encoder.files().items() if text_encoder is not None else ()):
        found.update(f"{name}\0{text}".encode())
    return found.hexdigest()[:16]
