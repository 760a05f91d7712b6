"""Makes a tiny random BERT that takes long texts and much memory for them: `wide_model.py TOKENIZER OUT POSITIONS`.

Run by Infinity's own interpreter. One narrow layer with a very wide middle: 32 KB a token and activation there, so
that memory runs out while the arithmetic stays a matter of seconds.
"""

import sys

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

WIDE = 8192


def main() -> None:
    """Make it."""
    source, out, positions = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.manual_seed(1)
    tokenizer = BertTokenizerFast.from_pretrained(source, model_max_length=positions)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=WIDE,
        max_position_embeddings=positions,
    )
    BertModel(config).eval().save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
