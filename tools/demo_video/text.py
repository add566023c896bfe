"""Tokenizer of the captions' closed vocabulary, and a frozen random UMT5 encoder.

The encoder is never trained: the transformer learns to read it. For that it must tell which colour
and motion belong to which object. So each of its heads looks at one fixed neighbour
(`NEIGHBOURS`), through the relative attention bias.
"""

from __future__ import annotations

import torch
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from .scenes import vocabulary

MAX_TOKENS = 20
"""The longest caption has 16 words, and one end-of-text token."""
WIDTH = 128
NEIGHBOURS = (-1, 1, -2, 2, -3, 3, -4, 4)
"""Offset of the token that each head looks at."""
NEIGHBOUR_BIAS = 7.0
"""Log-odds of that neighbour against each other token, before the random content scores."""


def new_tokenizer() -> T5TokenizerFast:
    """Build a T5 tokenizer (unigram) with one token a word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in vocabulary()]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=MAX_TOKENS)


@torch.no_grad()
def new_encoder(tokenizer: T5TokenizerFast, seed: int) -> UMT5EncoderModel:
    """Build the frozen encoder, each head turned to its own neighbour."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // len(NEIGHBOURS),
        d_ff=WIDTH,
        num_layers=1,
        num_heads=len(NEIGHBOURS),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        is_encoder_decoder=False,
        use_cache=False,
    )
    encoder = UMT5EncoderModel(config)
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    attention.relative_attention_bias.weight.zero_()
    for head, offset in enumerate(NEIGHBOURS):
        bucket = attention._relative_position_bucket(torch.tensor([[offset]]))
        attention.relative_attention_bias.weight[bucket.item(), head] = NEIGHBOUR_BIAS
    return encoder.eval().requires_grad_(False)
