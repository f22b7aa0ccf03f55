"""Randomly initialised transformers of a few thousand parameters, saved to a folder as users have them."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

MARKS = ["[PAD]", "[UNK]", "<start>"]
WORDS = ["a", "red", "blue", "bird", "with", "wings", "<end>"]  # CLIP's end mark has the highest id
VOCABULARY = {word: number for number, word in enumerate([*MARKS, *WORDS])}


def save_tokenizer(folder):
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(mark, VOCABULARY[mark]) for mark in ("<start>", "<end>")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    ).save_pretrained(folder)


SMALL = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def bert():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SMALL))


def clip_text():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**SMALL, eos_token_id=VOCABULARY["<end>"], pad_token_id=0))


def clip_text_projected():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(**SMALL, eos_token_id=VOCABULARY["<end>"], pad_token_id=0, projection_dim=12)
    return CLIPTextModelWithProjection(config)


def clip():
    from transformers import CLIPConfig, CLIPModel

    text = {**SMALL, "eos_token_id": VOCABULARY["<end>"], "pad_token_id": 0}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))


def t5():
    from transformers import T5Config, T5Model

    return T5Model(
        T5Config(vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


TINY = {
    "bert": bert,
    "clip_text": clip_text,
    "clip_text_projected": clip_text_projected,
    "clip": clip,
    "t5": t5,
}


def save(name, folder):
    """A tiny model of the kind ``name``, saved with a tokenizer; returned as well."""
    model = TINY[name]().eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model
