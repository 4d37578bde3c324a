"""Small networks and tokenizers, made on the spot."""

import contextlib

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dog",
    "ran",
    "far",
    "away",
    "b",
    "c",
]


def word_tokenizer() -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(WORDS[:4])
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return raw


def byte_tokenizer() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


@contextlib.contextmanager
def seeded():
    """The same weights every time, and no trace in the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def bert():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, architectures=["BertModel"], pad_token_id=0,
    )  # fmt: skip
    with seeded():
        return BertModel(config).eval()


def decoder(kind: str):
    import transformers as t

    shared = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0}
    config = {
        "gpt2": lambda: t.GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=32, **shared),
        "llama": lambda: t.LlamaConfig(num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=2,
                                       max_position_embeddings=32, **shared),
        "neox": lambda: t.GPTNeoXConfig(num_hidden_layers=2, hidden_size=16, intermediate_size=24,
                                        num_attention_heads=2, max_position_embeddings=32, **shared),
    }[kind]()  # fmt: skip
    with seeded():
        return t.AutoModelForCausalLM.from_config(config).eval()


def save(model, raw, folder):
    """A folder as save_pretrained writes it."""
    model.save_pretrained(folder)
    if raw is not None:
        from transformers import PreTrainedTokenizerFast

        PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    return folder
