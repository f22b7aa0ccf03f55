"""A trained model as a user holds it: load it, give it captions, get images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganvas.building import bare_system, text_encoder_of
from ganvas.errors import GanvasError
from ganvas.images import image_to_tensor, to_uint8
from ganvas.model_folder import find_model, load_weights, read_config, read_files
from ganvas.models import DEFAULT
from ganvas.recipe import Recipe, resolve
from ganvas.sheets import to_rgb
from ganvas.systems.base import System
from ganvas.text.encoder import Text
from ganvas.text.tokenizer import check_caption
from ganvas.word_maps import WordMaps, check_attends, check_lays_out, maps_of_generated, maps_of_real

MAX_IMAGES = 100_000
PRECISIONS = ("float32", "bfloat16", "auto")
_WORDS = 32


def load(
    path: str | os.PathLike[str] = DEFAULT, *, device: str = "auto", precision: str = "float32"
) -> Model:
    """Open a trained model.

    Args:
        path: a run folder, or the ``model`` folder of one, from anywhere; or the name of a model that ships.
            Without one, the default model.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: of generating: ``float32``, ``bfloat16``, or ``auto`` for what the device is faster at.
            Images in bfloat16 differ a little.

    Raises:
        GanvasError: there is no model, or its files are damaged; one line.
    """
    from ganvas.training.device import choose_device, choose_precision

    place = choose_device(device)
    if precision not in PRECISIONS:
        raise GanvasError(f"precision '{precision}': should be one of {', '.join(PRECISIONS)}")
    folder = find_model(Path(path))
    config = read_config(folder)
    recipe = resolve(config["recipe"])
    system = bare_system(recipe, text_encoder_of(recipe, read_files(folder)))
    load_weights(system, folder)
    system.to(place).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Model(system, recipe, config["trained"], place, choose_precision(precision, place))


class Model:
    """A trained system that generates images.

    Attributes:
        recipe: what it was trained by.
        trained: images seen in each phase of training.
        system: the networks, in evaluation mode.
        device: where they are.
        precision: ``float32`` or ``bfloat16``, of generating.
    """

    def __init__(
        self,
        system: System,
        recipe: Recipe,
        trained: Mapping[str, int],
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.recipe, self.trained, self.system = recipe, dict(trained), system
        self.device, self.precision = device, precision

    @property
    def image_size(self) -> int:
        """Side of generated images, pixels."""
        return self.system.image_size

    def generate(
        self,
        captions: Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        style_from: Image.Image | None = None,
        batch_size: int = 64,
    ) -> list[Image.Image]:
        """Generate ``n`` images for each caption.

        Image ``j`` of every caption has the same noise, which depends on ``seed`` and ``j`` only. On one kind
        of device an image is the same to the last bit whatever the batch size and wherever its caption stands
        in the list.

        Args:
            captions: any number of strings.
            n: images for each.
            seed: of the noise.
            style_from: an image whose style (all that the caption does not say) the results take over; they
                then do not differ within a caption, so ``n`` should be 1.
            batch_size: images at once, rounded up to a multiple of what a device is always given.

        Returns:
            ``len(captions) * n`` images, those of the first caption first.

        Raises:
            GanvasError: an empty or endless caption, a bad number, or no trained style encoder.
        """
        images = self.generate_arrays(captions, n, seed, style_from=style_from, batch_size=batch_size)
        return [Image.fromarray(image) for batch in images for image in batch]

    @torch.inference_mode()
    def generate_arrays(
        self,
        captions: Sequence[str],
        n: int = 1,
        seed: int = 0,
        *,
        style_from: Image.Image | None = None,
        same_noise: bool = True,
        batch_size: int = 64,
    ) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        """As ``generate``, but batch by batch: uint8 ``(B, H, W, 3)``.

        Without ``same_noise`` every image has noise of its own, as scores want it.
        """
        self._check_generates()
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions:
            raise GanvasError("no caption given; write at least one")
        for caption in captions:
            check_caption(caption)
        if not isinstance(n, int) or not isinstance(seed, int):
            raise GanvasError(f"n={n!r}, seed={seed!r}: should be whole numbers")
        if n < 1 or n * len(captions) > MAX_IMAGES:
            raise GanvasError(f"n={n}: should be at least 1, and at most {MAX_IMAGES:,} images in all")
        if batch_size < 1:
            raise GanvasError(f"batch_size={batch_size}: should be at least 1")
        num_noises = n if same_noise else n * len(captions)
        noise = (
            self._noise(num_noises, seed)
            if style_from is None
            else self._style(style_from).expand(num_noises, -1)
        )
        step = -(-batch_size // self._chunk) * self._chunk
        for start in range(0, n * len(captions), step):
            numbers = range(start, min(start + step, n * len(captions)))
            text = self._embed([captions[i // n] for i in numbers])
            yield self._draw(text, noise[[i % num_noises for i in numbers]])

    def unknown_words(self, caption: str) -> list[str]:
        """The words and symbols of a caption that the model has never seen: nothing of them is in its images.

        Args:
            caption: a string.

        Returns:
            Each once, as it is written. Models that read characters or parts of words know every word.

        Raises:
            GanvasError: an empty or endless caption.
        """
        return self.system.text_encoder.unknown_words(check_caption(caption))

    @torch.inference_mode()
    def interpolate(
        self, first: str, second: str, steps: int = 6, n: int = 1, seed: int = 0
    ) -> list[Image.Image]:
        """Generate images on the way from one caption to another, with the same noise.

        The sentence vectors are blended in equal steps, and the words place by place; a word where the other
        caption has none fades. The first and the last image are those of ``generate``.

        Args:
            first: a caption.
            second: another one.
            steps: images on the way, both ends included.
            n: ways, each with noise of its own.
            seed: of the noise.

        Returns:
            ``n * steps`` images, those of the first noise first.

        Raises:
            GanvasError: an empty or endless caption, or a bad number.
        """
        self._check_generates()
        check_caption(first)
        check_caption(second)
        if steps < 2 or n < 1 or steps * n > MAX_IMAGES:
            raise GanvasError(
                f"steps={steps}, n={n}: should be at least 2 and 1, and at most {MAX_IMAGES:,} images in all"
            )
        ends = self._embed([first, second])
        weight = torch.linspace(0, 1, steps, device=self.device).to(ends.sentence.dtype)
        text = Text(
            torch.lerp(ends.sentence[:1], ends.sentence[1:], weight[:, None]),
            torch.lerp(ends.words[:1], ends.words[1:], weight[:, None, None]),
            (ends.mask[:1] & (weight[:, None] < 1)) | (ends.mask[1:] & (weight[:, None] > 0)),
        )
        rows = torch.arange(n * steps)
        images = self._draw(text.rows((rows % steps).to(self.device)), self._noise(n, seed)[rows // steps])
        return [Image.fromarray(image) for image in images]

    @torch.inference_mode()
    def attention(self, caption: str, n: int = 1, seed: int = 0) -> list[WordMaps]:
        """Which word each place of an image was drawn from; the images are those of ``generate``.

        Args:
            caption: a string.
            n: images.
            seed: of the noise.

        Returns:
            One for each image.

        Raises:
            GanvasError: an empty or endless caption, a bad number, or a system that does not attend to words.
        """
        check_attends(self.system, self.recipe)
        images = self.generate([caption], n, seed)
        return maps_of_generated(self.system, images, caption, self._embed([caption]), self._noise(n, seed))

    def layout(self, caption: str, n: int = 1, seed: int = 0) -> list[WordMaps]:
        """Where each word of a caption lies in generated images: attention that was trained to be as in real
        ones. The counterpart for a real image is ``layout_of``.

        Args:
            caption: a string.
            n: images.
            seed: of the noise.

        Returns:
            One for each image, those of ``generate``.

        Raises:
            GanvasError: an empty or endless caption, a bad number, or a model without layout refinement.
        """
        check_lays_out(self.system, self.recipe)
        return self.attention(caption, n, seed)

    @torch.inference_mode()
    def layout_of(self, image: Image.Image, caption: str) -> WordMaps:
        """Where each word of a caption lies in a given image.

        Args:
            image: of any size; its middle square is read, at the size that the model generates.
            caption: what it shows.

        Returns:
            The square that was read, and its layout at each stage.

        Raises:
            GanvasError: an empty or endless caption, or a model without layout refinement.
        """
        check_lays_out(self.system, self.recipe)
        pixels = image_to_tensor(to_rgb(image), self.image_size).to(self.device)
        text = self._embed([check_caption(caption)])
        return maps_of_real(self.system, pixels, caption, text)

    def _check_generates(self) -> None:
        if not self.system.generates:
            raise GanvasError(
                f"'{self.recipe.name}' is a model of system {self.recipe.system}: it generates nothing"
            )

    @property
    def _chunk(self) -> int:
        """Images in every pass of the generator: with another number its kernels round differently. Few on a
        CPU, where a single image would wait for as many.
        """
        return 4 if self.device.type == "cpu" else 64

    def _embed(self, captions: Sequence[str]) -> Text:
        """Captions, each encoded by itself: beside others its padding, and so its rounding, would differ."""
        each = {caption: self.system.embed([caption]) for caption in dict.fromkeys(captions)}
        length = -(-max(text.mask.shape[1] for text in each.values()) // _WORDS) * _WORDS
        padded = {caption: _pad_words(text, length) for caption, text in each.items()}
        return Text(*(torch.cat(parts) for parts in zip(*(padded[c] for c in captions), strict=True)))

    def _draw(self, text: Text, noise: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images of any number of rows, in chunks of one size; the last one is filled up."""
        images = []
        for start in range(0, len(noise), self._chunk):
            rows = torch.arange(start, start + self._chunk).clamp(max=len(noise) - 1)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                drawn = self.system.generate(text.rows(rows.to(self.device)), noise[rows].to(self.device))
            chunk = drawn[-1]
            images.append(to_uint8(chunk[: len(noise) - start]))
        return np.concatenate(images)

    def _noise(self, n: int, seed: int) -> Tensor:
        """``(n, Z)`` on the CPU; row ``j`` depends on ``seed`` and ``j`` alone."""
        if not 0 <= seed < 2**63:
            raise GanvasError(f"seed={seed}: should be between 0 and 2^63 - 1")
        rows = []
        with torch.random.fork_rng(devices=[]):
            for j in range(n):
                torch.manual_seed(int(np.random.SeedSequence([seed, j]).generate_state(1)[0]))
                rows.append(self.system.draw_noise(torch.empty(1)))
        return torch.cat(rows)

    def _style(self, image: Image.Image) -> Tensor:
        """``(1, Z)``: the noise that gives the style of ``image``."""
        if not self.trained.get("style"):
            raise GanvasError(
                "this model has no trained style encoder; go on with its run by 'ganvas train RECIPE"
                " training.images.style=30000'"
            )
        pixels = image_to_tensor(image, self.image_size).to(self.device)
        return self.system.style_of(pixels).cpu()


def _pad_words(text: Text, length: int) -> Text:
    """``text`` with ``length`` words; the further ones are padding."""
    more = length - text.mask.shape[1]
    return Text(text.sentence, F.pad(text.words, (0, 0, 0, more)), F.pad(text.mask, (0, more)))
