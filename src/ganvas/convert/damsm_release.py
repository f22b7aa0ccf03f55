"""The DAMSM encoders of taoxugit/AttnGAN as a model folder: text, image, and the vocabulary of their data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ganvas.convert import damsm_image, damsm_text
from ganvas.convert.official import Converted, Given, Part, Release
from ganvas.convert.tables import load, shape_of
from ganvas.errors import GanvasError
from ganvas.recipe import DataSettings, Recipe, TrainingSettings
from ganvas.systems.damsm import DamsmEncoders, DamsmSettings
from ganvas.text.bilstm import BiLstm, build, imported_vocabulary
from ganvas.text.settings import BiLstmSettings

TEXT = Part("text encoder", r"rnn\.weight_ih_l0")
IMAGE = Part("image encoder", r"emb_features\.weight")
_NUM_WORDS = {"cub": 25, "coco": 20}  # read of a caption when the release is used [code]
_SETS = {5450: "cub", 27297: "coco"}
_IMAGE_SIZE = 256


def released_text_encoder(state: Mapping[str, Tensor], vocabulary: Mapping[str, int]) -> BiLstm:
    """The released text encoder with the released vocabulary; its settings are in ``.settings``.

    Args:
        state: the tensors of the release.
        vocabulary: word to number, of its ``captions.pickle``.

    Raises:
        GanvasError: a key is missing, unknown or of a wrong shape, or the vocabulary is of another release.
    """
    num_words, embedding = shape_of(damsm_text.TABLE, state, "encoder.weight", 2)
    _, half = shape_of(damsm_text.TABLE, state, "rnn.weight_hh_l0", 2)
    if num_words != len(vocabulary):
        raise GanvasError(
            f"DAMSM text encoder: has {num_words:,} words, and captions.pickle {len(vocabulary):,}; give the"
            " one of its data set"
        )
    settings = BiLstmSettings(
        features=2 * half,
        embedding=embedding,
        num_words=_NUM_WORDS.get(data_set(state), 25),
        vocabulary="imported",
        word_rule="attngan",
        unknown="drop",
        word_choice="random",
    )
    encoder = build(settings, files=imported_vocabulary(settings, vocabulary))
    load(damsm_text.TABLE, state, encoder)
    return encoder.eval()


def data_set(state: Mapping[str, Tensor]) -> str:
    """Which data set a released text encoder read, by the number of its words; ``folder`` where unknown."""
    num_words, _ = shape_of(damsm_text.TABLE, state, "encoder.weight", 2)
    return _SETS.get(num_words, "folder")


def _convert(given: Given) -> Converted:
    text, image = given.states[TEXT.name], given.states[IMAGE.name]
    assert given.vocabulary is not None
    text_encoder = released_text_encoder(text, given.vocabulary)
    settings = DamsmSettings(weights="random", trunk_drift=True, forgets=True)
    system = DamsmEncoders(settings, text_encoder, _IMAGE_SIZE)
    load(damsm_image.TABLE, image, system.damsm.image_encoder)
    name = data_set(text)
    recipe = Recipe(
        name=f"damsm-{name}-official",
        about="The released DAMSM encoders of AttnGAN (2018), with their drifted Inception-v3.",
        system="damsm",
        data=DataSettings(set=name, image_size=_IMAGE_SIZE),
        text=text_encoder.settings,
        settings=settings,
        training=TrainingSettings(images={"damsm": 0}),
    )
    return Converted(system.eval(), recipe)


RELEASE = Release(name="DAMSM", parts=(TEXT, IMAGE), build=_convert, vocabulary=True)
