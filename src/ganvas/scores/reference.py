"""What the distances need to know of the reference images, computed once and kept.

``DIR/.scores/`` in the folder of a prepared store holds one safetensors file for each reference: mean,
covariance and a sample of features, and in the file's header what they were computed from: the fingerprint of
the data, split, number and size of the images, and all of the back-end with a digest of its weights. A file
that says anything else than what is asked for is never used. Where the folder cannot be written to, the
statistics are computed each time.

A file is written aside and renamed, so two processes that need the same one may both compute it, and neither
sees half of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ganvas.data.store import Store
from ganvas.errors import GanvasError
from ganvas.progress import progress
from ganvas.scores.distances import Features, Gaussian, GaussianStatistics
from ganvas.scores.features import Extractor, resized

FOLDER = ".scores"
_FORMAT = 1
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is kept of a set of images: all that the distances need, whatever their number."""

    gaussian: Gaussian
    sample: Features
    """``(S, D)``: features of some of the images, or of all where they are few."""


def summarize(
    batches: Iterable[npt.NDArray[np.uint8]],
    num: int,
    extractor: Extractor,
    *,
    sample: int,
    seed: int,
    what: str,
) -> Summary:
    """Go once through images.

    Args:
        batches: uint8 ``(B, H, W, 3)`` each.
        num: images in all, at least 2.
        extractor: of features.
        sample: images whose features are kept.
        seed: which ones.
        what: a word or two for the progress bar.

    Raises:
        GanvasError: there are fewer or more than ``num``, or features are not finite.
    """
    kept = np.zeros(num, bool)
    kept[np.random.default_rng([seed, 4]).permutation(num)[:sample]] = True
    statistics = GaussianStatistics(extractor.dim)
    rows: list[Features] = []
    with progress(what, num) as report:
        for features in extractor.extract(batches):
            first = statistics.num
            statistics.add(features)
            if statistics.num > num:
                break
            rows.append(features[kept[first : statistics.num]])
            report(statistics.num)
    if statistics.num != num:
        raise GanvasError(f"{what}: {num:,} were promised, and {statistics.num:,} came; score them again")
    gaussian = statistics.result()
    if not np.isfinite(gaussian.covariance).all():
        raise GanvasError(
            f"features '{extractor.backend.name}': are not finite; check their weights, or use float32"
        )
    return Summary(gaussian=gaussian, sample=np.concatenate(rows))


class Reference:
    """Real images of a split, seen through a back-end.

    Attributes:
        num: images.
        about: what fixes the summary; plain values.

    Args:
        store: the prepared data.
        extractor: of features.
        split: of the data.
        num: images; by default, and at most, the whole split.
        size: side that the images are brought to before the back-end sees them; by default that of the store.
        sample: images whose features are kept.
        seed: which images, and which of them are kept.

    Raises:
        GanvasError: no such split, or a number that makes no sense.
    """

    def __init__(
        self,
        store: Store,
        extractor: Extractor,
        *,
        split: str,
        num: int | None = None,
        size: int | None = None,
        sample: int = 10_000,
        seed: int = 0,
    ) -> None:
        rows = store.rows(split)
        if size is not None and not 1 <= size <= store.info.size:
            raise GanvasError(
                f"reference images of {size} px: {store.path} has them at {store.info.size} px; choose 1 to"
                f" {store.info.size}"
            )
        if num is not None and not 2 <= num <= len(rows):
            raise GanvasError(f"{num} reference images: split '{split}' has {len(rows):,}; choose 2 to that")
        if num is not None and num < len(rows):
            rows = np.sort(np.random.default_rng([seed, 5]).choice(rows, num, replace=False))
        self.num = len(rows)
        self._store, self._rows, self._extractor = store, rows, extractor
        self._size, self._sample, self._seed = size or store.info.size, sample, seed
        self.about: Mapping[str, Any] = {
            "reference_data": store.info.fingerprint,
            "reference_split": split,
            "reference_num_images": self.num,
            "reference_size": self._size,
            "reference_resize": "none" if self._size == store.info.size else "bilinear, antialiased, rounded",
            "reference_seed": seed if self.num < store.info.splits[split] else None,
            "sample": sample,
            "sample_seed": seed,
            **extractor.about,
        }

    @property
    def path(self) -> Path:
        """Where the summary is kept."""
        text = json.dumps([_FORMAT, self.about], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = (
            f"{self._extractor.backend.name}-{self.about['reference_split']}-{self._size}-{key}.safetensors"
        )
        return self._store.path / FOLDER / name

    def summary(self, path: Path | None = None) -> Summary:
        """The summary: read, or computed and kept.

        Args:
            path: a file that an earlier call wrote, to read that and no other.

        Raises:
            GanvasError: the file is another reference's, or ``path`` cannot be read.
        """
        if path is not None:
            return self._read(path)
        if self.path.is_file():
            with contextlib.suppress(_Damaged):  # then it is made again
                return self._read(self.path)
        if self.num < 2:
            raise GanvasError(f"split '{self.about['reference_split']}' has 1 image; a reference needs 2")
        found = summarize(
            self._batches(),
            self.num,
            self._extractor,
            sample=self._sample,
            seed=self._seed,
            what="reference images",
        )
        with contextlib.suppress(OSError):
            self._write(found)
        return found

    def _batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        for first in range(0, self.num, _CHUNK):
            images = self._store.images.squares(self._rows[first : first + _CHUNK])
            yield images if self._size == images.shape[1] else _shrunk(images, self._size)

    def _write(self, found: Summary) -> None:
        tensors: dict[str, npt.NDArray[Any]] = {
            "mean": found.gaussian.mean,
            "covariance": found.gaussian.covariance,
            "sample": np.ascontiguousarray(found.sample),
        }
        checksum = _checksum(tensors)
        header = {"format": _FORMAT, "about": dict(self.about), "sha256": checksum}
        self.path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(tensors, {"ganvas": json.dumps(header)}))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self, path: Path) -> Summary:
        try:
            with safe_open(path, "np") as file:
                header = json.loads((file.metadata() or {})["ganvas"])
                stored = dict(header["about"])
                if header["format"] == _FORMAT:
                    self._refuse_others(path, stored)
                tensors = {name: file.get_tensor(name) for name in ("mean", "covariance", "sample")}
        except GanvasError:
            raise
        except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise _Damaged(
                f"{path}: holds no reference statistics ({type(error).__name__}); delete it, and it is"
                " made again"
            ) from None
        dim = self._extractor.dim
        shapes = [tensors[name].shape for name in ("mean", "covariance", "sample")]
        expected = [(dim,), (dim, dim), (min(self._sample, self.num), dim)]
        if header["format"] != _FORMAT or shapes != expected or header["sha256"] != _checksum(tensors):
            raise _Damaged(f"{path}: these reference statistics are damaged; delete the file")
        gaussian = Gaussian(mean=tensors["mean"], covariance=tensors["covariance"], num=self.num)
        return Summary(gaussian=gaussian, sample=tensors["sample"])

    def _refuse_others(self, path: Path, stored: Mapping[str, Any]) -> None:
        other = [
            f"{key} is {str(stored.get(key))[:40]}, not {str(self.about.get(key))[:40]}"
            for key in dict.fromkeys([*self.about, *stored])
            if stored.get(key) != self.about.get(key)
        ]
        if other:
            raise GanvasError(
                f"{path}: statistics of another reference ({'; '.join(other)}); give the file that belongs to"
                " these data, or delete it"
            )


class _Damaged(GanvasError):
    """A file of statistics that cannot be used."""


def _checksum(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype}".encode())
        found.update(np.ascontiguousarray(tensors[name]).data)
    return found.hexdigest()


def _shrunk(images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    whole = resized(pixels, size, "bilinear, antialiased").round_().to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy())
