"""Weights of feature networks: found, read without running anything, named by a digest, made quicker."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ganvas.errors import GanvasError

_SECONDS = 30.0
_INCEPTIONS = {
    "inception-fid": (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    "inception-torchvision": ("https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",),
}
"""Where they are, and under which names other libraries keep the same files."""


class NoFeatures(GanvasError):
    """A back-end's package or weights are not here; the text says how to get them."""


def variable(name: str) -> str:
    """The environment variable with the path of a back-end's weights."""
    return "GANVAS_WEIGHTS_" + name.upper().replace("-", "_")


def digest(network: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all weights, whatever file they came in."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def load_weights(network: nn.Module, path: Path, name: str, prefix: str = "") -> None:
    """Put a PyTorch file's tensors into a network. Nothing in the file is run.

    Args:
        network: whose weights they are; what else the file has is left out.
        path: of the file.
        name: of the back-end, for the error line.
        prefix: of the network's own names, which the file goes without.

    Raises:
        GanvasError: it cannot be read, or holds other weights.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        wanted = network.state_dict()
        chosen = {key: tensors.get(key.removeprefix(prefix), wanted[key]) for key in wanted}
        lacking = [key for key in wanted if key.removeprefix(prefix) not in tensors]
        lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
        if lacking:
            raise KeyError(f"it has no tensor '{lacking[0].removeprefix(prefix)}'")
        network.load_state_dict(chosen)
    except Exception as error:  # a damaged file makes the reader trip over anything
        reason = " ".join(str(error).split())[:120]
        raise GanvasError(
            f"{path}: holds no weights for features '{name}' ({type(error).__name__}: {reason}); give"
            " another file"
        ) from None


def fold_normalisation(network: nn.Module) -> None:
    """Make each normalisation part of the convolution before it; the result is the same to rounding."""
    for module in list(network.modules()):
        for conv, norm in _FOLDED:
            first, second = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(first, second))
                setattr(module, norm, nn.Identity())


_FOLDED = (
    ("conv", "bn"),
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)


def inception_weights(name: str, given: str | None = None) -> Path:
    """The file with the weights of an Inception.

    Args:
        name: ``inception-fid`` or ``inception-torchvision``.
        given: its path, where the user said one; otherwise ``variable(name)`` may, or it is fetched once.

    Raises:
        NoFeatures: it is not here and cannot be fetched.
    """
    given = given or os.environ.get(variable(name))
    url, *others = _INCEPTIONS[name]
    return Path(given) if given else fetched(name, url, tuple(others))


def fetched(name: str, url: str, others: tuple[str, ...] = ()) -> Path:
    """The file of a URL in PyTorch's cache, fetched if it is not there yet.

    Args:
        name: of the back-end, for the error line.
        url: where it is; its name ends in the first digits of its SHA-256.
        others: file names under which other libraries keep the same weights.

    Raises:
        NoFeatures: it is not there and cannot be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    for known in (path, *(folder / other for other in others)):
        if known.is_file():
            return known
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)
        checksum = path.stem.rsplit("-", 1)[1]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise NoFeatures(
            f"features '{name}': their weights could not be fetched ({reason}); put {url} into"
            f" {folder}, or set {variable(name)} to its path"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return path
