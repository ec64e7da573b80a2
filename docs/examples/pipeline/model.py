"""The modules: two vision encoders and a language model, small but whole.

Every process makes them from the same seed, as real ones load the same checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIDE = 64  # pixels
FRAMES = 8
PATCH = 16  # pixels
WIDTH = 64  # numbers in an embedding
HEADS = 4
LAYERS = 4
VOCABULARY = 512
CONTEXT = 1024  # the most positions of a request

Media = list[dict[str, Any]]
"""What a request shows, in order: ``{"kind": "image" or "video", "seed": int}`` each."""


def draw(kind: str, seed: int) -> torch.Tensor:
    """A picture (3, SIDE, SIDE) or a film (3, FRAMES, SIDE, SIDE)."""
    shape = {"image": (3, SIDE, SIDE), "video": (3, FRAMES, SIDE, SIDE)}[kind]
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class VisionEncoder(nn.Module):
    """Patches, one block, a norm: an embedding (WIDTH,) for each patch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "image":
            self.patches: nn.Module = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        else:
            size = (2, PATCH, PATCH)
            self.patches = nn.Conv3d(3, WIDTH, size, size)
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patches(pixels[None]).flatten(2).transpose(1, 2)
        embeddings: torch.Tensor = self.norm(self.block(patches))[0]
        return embeddings


class Layer(nn.Module):
    """Attention over the KV cache, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor, cache: torch.Tensor, start: int) -> torch.Tensor:
        """Positions `start` and on: their keys and values go into `cache` (2, positions, WIDTH)."""
        end = start + len(x)
        query, key, value = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        cache[0, start:end] = key
        cache[1, start:end] = value
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in (query, *cache[:, :end])
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=start == 0)
        x = x + self.output(attended.transpose(0, 1).flatten(1))
        result: torch.Tensor = x + self.perceptron(x)
        return result


class LanguageModel(nn.Module):
    """A transformer whose state between calls is the KV cache alone."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, embeddings: torch.Tensor, cache: torch.Tensor, start: int) -> torch.Tensor:
        """Logits (VOCABULARY,) of what follows `embeddings` (n, WIDTH), which begin at `start`."""
        x = embeddings + self.positions(torch.arange(start, start + len(embeddings)))
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x = layer(x, layer_cache, start)
        logits: torch.Tensor = self.head(self.norm(x[-1]))
        return logits

    @torch.inference_mode()
    def prefill(
        self, embeddings: list[torch.Tensor], prompt: list[int], cache: torch.Tensor
    ) -> torch.Tensor:
        """Fill `cache` with what is shown and then asked; logits of the first new token."""
        logits: torch.Tensor = self(
            torch.cat([*embeddings, self.tokens(torch.tensor(prompt))]), cache, 0
        )
        return logits

    @torch.inference_mode()
    def decode(
        self, logits: torch.Tensor, cache: torch.Tensor, start: int, count: int
    ) -> tuple[list[int], torch.Tensor]:
        """Go on from a filled cache: `count` tokens, and the logits after the last of them."""
        tokens = []
        for position in range(start, start + count):
            tokens.append(int(logits.argmax()))
            logits = self(self.tokens(torch.tensor(tokens[-1:])), cache, position)
        return tokens, logits


def new_cache(positions: int) -> torch.Tensor:
    return torch.zeros(LAYERS, 2, positions, WIDTH)


def vision_encoder(kind: str) -> VisionEncoder:
    torch.manual_seed({"image": 1, "video": 2}[kind])
    return VisionEncoder(kind).eval()


def language_model() -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel().eval()


class Whole:
    """All of it in one process, to compare with."""

    def __init__(self) -> None:
        self.encoders = {kind: vision_encoder(kind) for kind in ("image", "video")}
        self.language = language_model()

    @torch.inference_mode()
    def answer(self, media: Media, prompt: list[int], count: int) -> tuple[list[int], torch.Tensor]:
        embeddings = [self.encoders[m["kind"]](draw(m["kind"], m["seed"])) for m in media]
        length = sum(map(len, embeddings)) + len(prompt)
        cache = new_cache(length + count)
        logits = self.language.prefill(embeddings, prompt, cache)
        return self.language.decode(logits, cache, length, count)
