"""Encoders for the tests of the sentence-transformers drop-ins; nothing here needs a network.

`Given` stands for a model whose embeddings are known, so that losses run whole, with their own forward, on chosen
numbers. The other two are real: the token embeddings of the wordllama wheel, as they are, or below a Transformer layer.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("sentence_transformers", reason="pip install -r requirements-compat.txt")

from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WIDTH = 256  # of wordllama's embeddings


class Given(nn.Sequential):
    """Takes the embedding of a column from its features, under `key`."""

    def __init__(self, key: str = "model", width: int = 8) -> None:
        super().__init__(nn.Identity())
        self.key, self.width, self.max_seq_length, self.similarity_fn_name = key, width, 8, "cosine"
        words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)

    def get_embedding_dimension(self) -> int:
        return self.width

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.key]}

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("only the name of the similarity matters")


@cache
def wordllama() -> tuple[Tokenizer, Tensor]:
    """A trained tokenizer and a trained table of token embeddings."""
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        pytest.skip("wordllama is missing: pip install --no-deps wordllama")
    root = Path(spec.origin).parent
    weights = load_file(root / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    return Tokenizer.from_file(str(root / "tokenizers" / "l2_supercat_tokenizer_config.json")), weights.float()


def static_encoder() -> SentenceTransformer:
    """Means of token embeddings: a small encoder as it is trained and used."""
    tokenizer, weights = wordllama()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.clone())], device="cpu")


def transformer_encoder(folder: Path, seed: int, dropout: float = 0.0) -> SentenceTransformer:
    """One Transformer layer over wordllama's token embeddings; the layer itself is fresh."""
    tokenizer, weights = wordllama()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(weights), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, intermediate_size=WIDTH,
        max_position_embeddings=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    model = BertModel(config)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(weights)
    model.save_pretrained(folder)
    special = {"unk_token": "<unk>", "pad_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return SentenceTransformer(
        modules=[Transformer(str(folder), max_seq_length=24), Pooling(WIDTH, "mean")], device="cpu"
    )
