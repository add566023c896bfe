"""Tokenizers of the captions' closed vocabulary, and frozen random CLIP, T5 and UMT5 encoders.

The encoders are never trained: the transformer learns to read them. For that the T5 or UMT5 encoder must
show which words belong to which object, and Flux gives text tokens no positions. So each of its heads
looks at one fixed neighbour (`NEIGHBOURS`), through the relative attention bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH = 128
NEIGHBOURS = (-1, 1, -2, 2, -3, 3, -4, 4)
"""Offset of the token that each T5 head looks at."""
NEIGHBOUR_BIAS = 7.0
"""Log-odds of that neighbour against each other token, before the random content scores."""
CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"


def new_clip_tokenizer(vocabulary: Sequence[str], length: int) -> CLIPTokenizer:
    """Build a CLIP tokenizer whose merges make one token of each word, lower case."""
    words = [(*word[:-1], f"{word[-1]}</w>") for word in sorted({w.lower() for w in vocabulary})]
    letters = sorted({piece for word in words for piece in word})
    merges = whole_word_merges(words)
    tokens = [CLIP_BOS, CLIP_EOS, *letters, *(left + right for left, right in merges)]
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=length)


def whole_word_merges(words: list[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return the byte-pair merges that join every word, most frequent pair first.

    Ties are broken by the alphabet. The trainer of `tokenizers` breaks them at random, so that two runs
    would give one word two different ids, and the frozen encoder two different vectors.
    """
    merges = []
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def new_t5_tokenizer(vocabulary: Sequence[str], length: int) -> T5TokenizerFast:
    """Build a T5 tokenizer (unigram) with one token a word, capitals kept."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in vocabulary]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def new_clip_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """Build the frozen CLIP encoder: its pooled vector is read at the first end-of-text token."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


@torch.no_grad()
def new_t5_encoder(
    tokenizer: T5TokenizerFast, seed: int, *, umt5: bool = False
) -> T5EncoderModel | UMT5EncoderModel:
    """Build the frozen T5 or UMT5 encoder, each head turned to its own neighbour."""
    torch.manual_seed(seed)
    config = (UMT5Config if umt5 else T5Config)(
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
    encoder = (UMT5EncoderModel if umt5 else T5EncoderModel)(config)
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    attention.relative_attention_bias.weight.zero_()
    for head, offset in enumerate(NEIGHBOURS):
        bucket = attention._relative_position_bucket(torch.tensor([[offset]]))
        attention.relative_attention_bias.weight[bucket.item(), head] = NEIGHBOUR_BIAS
    return encoder.eval().requires_grad_(False)
