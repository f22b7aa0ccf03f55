"""The word encoder of AttnGAN: word embeddings, then one LSTM in each direction.

Xu et al., AttnGAN (CVPR 2018), section 3.2; trained with DAMSM. Where the settings do not say otherwise, a
caption longer than ``num_words`` keeps its first words rather than a random choice, and a word outside the
vocabulary has an embedding of its own rather than being dropped, as in the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.text.encoder import Text, TextEncoder
from ganvas.text.settings import BiLstmSettings
from ganvas.text.tokenizer import FILE, WordTokenizer

_MOST_WORDS = 256


class BiLstm(TextEncoder):
    """Words ``(B, T, features)`` are both directions' states, the sentence ``(B, features)`` their last ones.

    Args:
        settings: widths and lengths.
        tokenizer: the vocabulary.
    """

    def __init__(self, settings: BiLstmSettings, tokenizer: WordTokenizer) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        self.sentence_dim = self.word_dim = settings.features
        self.embedding = nn.Embedding(len(tokenizer), settings.embedding)
        self.dropout = nn.Dropout(settings.dropout)
        self.forwards = nn.LSTM(settings.embedding, settings.features // 2, batch_first=True)
        self.backwards = nn.LSTM(settings.embedding, settings.features // 2, batch_first=True)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Word ids ``(B, L)``, ``L`` that of the longest caption; all its words where they are chosen
        later.
        """
        return self.tokenizer(captions)

    def forward(self, tokens: Tensor) -> Text:
        """Encode word ids ``(B, T)`` as ``tokenize`` makes them.

        Padding follows the words, so the forward states never see it; for the other direction each caption is
        turned round in its place. That equals packing the sequences, and waits for no length on the host.
        """
        if tokens.shape[1] > self.settings.num_words:
            tokens = self._chosen(tokens)
        lengths = (tokens != 0).sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = places < lengths
        turned = torch.where(mask, lengths - 1 - places, places)  # its own inverse
        x = self.dropout(self.embedding(tokens))
        ahead = self.forwards(x)[0]  # (B, T, features / 2)
        back = _take(self.backwards(_take(x, turned))[0], turned)
        words = torch.cat([ahead, back], dim=-1) * mask[..., None]
        last = _take(ahead, lengths - 1)[:, 0]
        return Text(torch.cat([last, back[:, 0]], dim=-1), words, mask)

    def _chosen(self, tokens: Tensor) -> Tensor:
        """``num_words`` words of each caption: any, in their order, while it is trained; else the first."""
        if not self.training:
            return tokens[:, : self.settings.num_words]
        chance = torch.rand(tokens.shape, device=tokens.device).masked_fill(tokens == 0, 2.0)
        places = chance.argsort(dim=1)[:, : self.settings.num_words].sort(dim=1).values
        return tokens.gather(1, places)

    def words_of(self, caption: str) -> list[str]:
        """The words that are read; those outside the vocabulary as the unknown word, or not at all."""
        return self.tokenizer.words_of(caption)[: self.settings.num_words]

    def unknown_words(self, caption: str) -> list[str]:
        """Words and symbols outside the vocabulary, each once, as they are written."""
        return self.tokenizer.unknown_words(caption)

    def files(self) -> dict[str, str]:
        """The vocabulary."""
        return {FILE: self.tokenizer.save()}


def _take(x: Tensor, places: Tensor) -> Tensor:
    """The rows of ``x`` ``(B, T, D)`` at ``places`` ``(B, N)``: ``(B, N, D)``."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def build(
    settings: BiLstmSettings,
    captions: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> BiLstm:
    """As ``ganvas.text.build``: the vocabulary comes from ``files``, or else from ``captions``."""
    if files is not None:
        if FILE not in files:
            raise GanvasError(f"{FILE}: is missing; the text encoder 'bilstm' needs its vocabulary")
        return BiLstm(settings, WordTokenizer.load(files[FILE], _read(settings)))
    if captions is None:
        raise GanvasError("the text encoder 'bilstm' needs the training captions to make its vocabulary")
    tokenizer = WordTokenizer.train(
        captions, _read(settings), settings.min_count, rule=settings.word_rule, unknown=settings.unknown
    )
    return BiLstm(settings, tokenizer)


def imported_vocabulary(settings: BiLstmSettings, vocabulary: Mapping[str, int]) -> dict[str, str]:
    """The files of an encoder whose words have numbers already, as ``build`` takes them."""
    tokenizer = WordTokenizer.from_vocabulary(vocabulary, _read(settings), rule=settings.word_rule)
    return {FILE: tokenizer.save()}


def _read(settings: BiLstmSettings) -> int:
    """Words that are read of a caption before some of them are chosen."""
    return settings.num_words if settings.word_choice == "first" else max(_MOST_WORDS, settings.num_words)
