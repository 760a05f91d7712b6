"""Makes tiny random models that the real Infinity serves: rerank, classify, and CLIP for images.

Run by Infinity's own interpreter as `python tiny_models.py TOKENIZER_FOLDER OUT`; makes OUT/rerank, OUT/classify and
OUT/clip in a few seconds. Weights are spread wide: with the usual ones all scores of a random model are 1e-6 apart, and
a swap of two answers would go unseen.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
)

WIDE = 0.6


def text_model(tokenizer_folder: str, out: Path, labels: int) -> None:
    """A two-layer BERT with a head of `labels` outputs: one is a reranker to Infinity, several are a classifier."""
    torch.manual_seed(labels)
    tokenizer = BertTokenizerFast.from_pretrained(tokenizer_folder)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=labels,
        initializer_range=WIDE,
    )
    BertForSequenceClassification(config).eval().save_pretrained(out)
    tokenizer.save_pretrained(out)


def clip(out: Path) -> None:
    """A CLIP for 32 x 32 pixels, with letters for words."""
    torch.manual_seed(5)
    out.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (out / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (out / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(str(out / "vocab.json"), str(out / "merges.txt"), model_max_length=24)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    start, end = len(words) - 2, len(words) - 1
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text = {**sizes, **ids, "vocab_size": len(words), "max_position_embeddings": 24, "initializer_range": WIDE}
    vision = {**sizes, "image_size": 32, "patch_size": 8, "initializer_range": WIDE}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).eval().save_pretrained(out)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(out)


def main() -> None:
    """Make all three."""
    tokenizer_folder, out = sys.argv[1], Path(sys.argv[2])
    text_model(tokenizer_folder, out / "rerank", 1)
    text_model(tokenizer_folder, out / "classify", 3)
    clip(out / "clip")


if __name__ == "__main__":
    main()
