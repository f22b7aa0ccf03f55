"""Feed batches to the batches that systems know: captions become tokens or vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ganvas.data.feed import Feed, FeedBatch
from ganvas.data.stream import StreamBatch, StreamFeed
from ganvas.errors import GanvasError, RunStopped
from ganvas.progress import progress
from ganvas.systems.base import Batch, Phase
from ganvas.text.encoder import Text, TextEncoder
from ganvas.training.checkpoint import in_words, write_atomically
from ganvas.training.device import wait_for_all
from ganvas.training.labels import LabelInputs

_CHUNK = 256


class Inputs:
    """Turns feed batches into training batches for one phase.

    A text encoder that is being trained gets tokens, one caption an image. A frozen one was run once over all
    captions; its sentence vectors are looked up, and those of several captions of an image averaged. Words
    would fill gigabytes, so captions whose words are asked for are encoded as they come.

    Args:
        encoder: the text encoder.
        captions: all captions of the split, as the feed numbers them.
        phase: what the batches are for.
        fabric: device and precision.
        cache: folder for the vectors of a frozen encoder.
    """

    def __init__(
        self, encoder: TextEncoder, captions: Sequence[str], phase: Phase, fabric: Fabric, cache: Path
    ) -> None:
        self._tokens: Tensor | None = None
        self._sentences: Tensor | None = None
        self._encoder, self._phase, self._fabric = encoder, phase, fabric
        if phase.trains_text or phase.words:
            self._tokens = encoder.tokenize(captions).to(fabric.device)
        if not phase.trains_text:
            self._sentences = cached_sentences(encoder, captions, fabric, cache).to(fabric.device)

    def __call__(self, batch: FeedBatch) -> Batch:
        """The training batch, on the device."""
        images = _images(batch)
        if self._phase.trains_text:
            assert self._tokens is not None
            return Batch(**images, tokens=self._tokens[batch.captions[:, 0]])
        wrong = self._text(batch.wrong_captions)
        if self._tokens is None:
            return Batch(**images, text=self._text(batch.captions), wrong_text=wrong)
        text, *further = (self._words(captions) for captions in batch.captions.unbind(dim=1))
        return Batch(**images, text=text, wrong_text=wrong, further_texts=further)

    def _words(self, captions: Tensor) -> Text:
        """The captions ``(B,)`` with their words."""
        assert self._tokens is not None
        tokens = self._tokens[captions]
        longest = (tokens != 0).any(dim=0).sum() if tokens.device.type == "cpu" else tokens.shape[1]
        return encoded(self._encoder, tokens[:, : max(1, int(longest))], self._fabric)

    def _text(self, captions: Tensor) -> Text:
        assert self._sentences is not None
        return _without_words(self._sentences[captions].mean(dim=1))  # (B, n, D) to (B, D)


class StreamInputs:
    """The same for batches of a stream, whose captions are known when they come: each is encoded in its turn.

    Args:
        encoder: the text encoder.
        phase: what the batches are for.
        fabric: device and precision.
    """

    def __init__(self, encoder: TextEncoder, phase: Phase, fabric: Fabric) -> None:
        self._encoder, self._phase, self._fabric = encoder, phase, fabric

    def __call__(self, batch: StreamBatch) -> Batch:
        """The training batch, on the device."""
        tokens = self._encoder.tokenize(batch.texts).to(self._fabric.device)
        if self._phase.trains_text:
            return Batch(**_images(batch), tokens=tokens)
        text = encoded(self._encoder, tokens, self._fabric)
        order = torch.arange(1, len(batch.texts) + 1, device=text.sentence.device) % len(batch.texts)
        return Batch(
            **_images(batch),
            text=text if self._phase.words else _without_words(text.sentence),
            wrong_text=_without_words(text.sentence[order]),  # as batch.wrong_texts has it
        )


def _images(batch: FeedBatch | StreamBatch) -> dict[str, Any]:
    """The parts of a batch that are no text."""
    return {
        "images": batch.images,
        "smaller": batch.smaller,
        "labels": batch.labels,
        "wrong_images": batch.wrong_images,
        "wrong_smaller": batch.wrong_smaller,
    }


@torch.no_grad()
def encoded(encoder: TextEncoder, tokens: Tensor, fabric: Fabric) -> Text:
    """Captions by a frozen encoder; sentences and words in float32.

    Args:
        encoder: the encoder.
        tokens: ``(B, L)``, on the device.
        fabric: precision.
    """
    training = encoder.training
    encoder.eval()
    with fabric.autocast():
        text = encoder(tokens)
    encoder.train(training)
    return Text(text.sentence.float(), text.words.float(), text.mask)


def make_inputs(
    feed: Feed | StreamFeed, encoder: TextEncoder, phase: Phase, fabric: Fabric, cache: Path
) -> Callable[[Any], Batch]:
    """What turns the batches of a feed into training batches; arguments as for ``Inputs``."""
    if phase.labels is not None and isinstance(feed, Feed):
        return LabelInputs(feed.store, phase.labels, fabric)
    if isinstance(feed, StreamFeed):
        return StreamInputs(encoder, phase, fabric)
    return Inputs(encoder, feed.captions, phase, fabric, cache)


def _without_words(sentence: Tensor) -> Text:
    """Sentence vectors ``(B, D)`` as the encoding of captions whose words nobody asks for."""
    return Text(
        sentence, sentence.new_zeros(len(sentence), 0, 0), sentence.new_zeros(len(sentence), 0).bool()
    )


def cached_sentences(encoder: TextEncoder, captions: Sequence[str], fabric: Fabric, cache: Path) -> Tensor:
    """Sentence vectors ``(N, D)`` of all captions, float32 on the CPU, computed once per encoder and
    captions, by the first rank.

    Raises:
        RunStopped: they cannot be written.
        GanvasError: those that were written are damaged.
    """
    path = cache / f"sentences-{_key(encoder, captions)}.safetensors"
    if fabric.global_rank == 0 and not path.is_file():
        sentences = encode_sentences(encoder, captions, fabric)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            for old in cache.glob("sentences-*"):
                old.unlink()
        except OSError as error:
            raise RunStopped(f"{cache}: could not be written ({in_words(error)})") from None
        write_atomically(path, save({"sentences": sentences}))
    wait_for_all(fabric)
    return _read_sentences(path, len(captions), encoder.sentence_dim)


def _read_sentences(path: Path, num: int, dim: int) -> Tensor:
    try:
        sentences = load_file(path)["sentences"]
        if sentences.shape != (num, dim) or sentences.dtype != torch.float32:
            raise KeyError(f"it holds {sentences.dtype} {tuple(sentences.shape)}")
    except (OSError, KeyError, SafetensorError) as error:
        raise GanvasError(
            f"{path}: truncated or changed since it was saved ({error}); remove it, and it is made again"
        ) from None
    return sentences


@torch.no_grad()
def encode_sentences(encoder: TextEncoder, captions: Sequence[str], fabric: Fabric) -> Tensor:
    """Sentence vectors ``(N, D)``, float32 on the CPU. Captions of like length are encoded together."""
    was_training = encoder.training
    encoder.eval()
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    out = torch.empty(len(captions), encoder.sentence_dim)
    with progress("captions", len(captions), unit="captions") as report, fabric.autocast():
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            tokens = encoder.tokenize([captions[i] for i in chunk]).to(fabric.device)
            out[torch.tensor(chunk)] = encoder(tokens).sentence.float().cpu()
            report(start + len(chunk))
    encoder.train(was_training)
    return out


def _key(encoder: TextEncoder, captions: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update("\0".join(captions).encode())
    return digest.hexdigest()[:16]
