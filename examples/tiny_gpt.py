"""A character-level GPT, small enough to be trained here in half a minute.

Two blocks of attention and two linear layers each, like GPT-2 in all but size. It is
trained on the Zen of Python, which every Python carries.
"""

import codecs
import contextlib
import importlib
import io
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS, BLOCKS, CONTEXT, SEEN = 48, 4, 2, 64, 48
LINEAR_LAYERS = ("blocks.*.qkv", "blocks.*.out", "blocks.*.up", "blocks.*.down")
"""Where all but a few percent of the weights are."""


def zen() -> str:
    """Return the Zen of Python, 856 characters."""
    with contextlib.redirect_stdout(io.StringIO()):  # importing it prints it
        return codecs.decode(importlib.import_module("this").s, "rot13")


class Block(nn.Module):
    """Attention and a small network, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.before_network = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any, past: Any) -> tuple[Any, Any]:
        """Return what comes out for new places, and keys and values of all places."""
        attended, past = self._attend(self.before_attention(x), past)
        x = x + self.out(attended)
        hidden = functional.gelu(self.up(self.before_network(x)))
        return x + self.down(hidden), past

    def _attend(self, x: Any, past: Any) -> tuple[Any, Any]:
        batch, new, _ = x.shape
        heads = self.qkv(x).reshape(batch, new, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if past is not None:
            key = torch.cat([past[0], key], dim=2)
            value = torch.cat([past[1], value], dim=2)
        seen = key.shape[2]
        mask = torch.ones(new, seen).tril(seen - new).bool()
        mixed = functional.scaled_dot_product_attention(query, key, value, mask)
        return mixed.transpose(1, 2).reshape(batch, new, WIDTH), (key, value)


class TinyGpt(nn.Module):
    """Characters in, a score for every next character out."""

    def __init__(self, characters: str) -> None:
        super().__init__()
        self.characters = characters
        self.token = nn.Embedding(len(characters), WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, ids: Any, past: Any = None) -> tuple[Any, Any]:
        """Return scores (batch, new, characters) and what to give for the next."""
        past = past or [None] * BLOCKS
        start = 0 if past[0] is None else past[0][0].shape[2]
        x = self.token(ids) + self.place(torch.arange(start, start + ids.shape[1]))
        kept = []
        for block, before in zip(self.blocks, past, strict=True):
            x, seen = block(x, before)
            kept.append(seen)
        return self.last(x) @ self.token.weight.T, kept

    def encode(self, text: str) -> Any:
        """Return a text as ids, shape (1, characters)."""
        return torch.tensor([[self.characters.index(c) for c in text]])

    @torch.no_grad()
    def generate(self, prompt: str, count: int) -> tuple[str, Any]:
        """Return the likeliest next characters and the scores they were taken from."""
        ids, past, told, scores = self.encode(prompt), None, "", []
        for _ in range(count):
            found, past = self(ids, past)
            scores.append(found[0, -1])
            ids = found[:, -1:].argmax(dim=-1)
            told += self.characters[int(ids)]
        return told, torch.stack(scores)


def train(*, steps: int = 1200, seed: int = 0) -> TinyGpt:
    """Return the model trained on the Zen of Python, always the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its matrices are too small to be shared out
    text = zen()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyGpt("".join(sorted(set(text))))
        ids = model.encode(text)[0]
        optimizer = torch.optim.AdamW(model.parameters())
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        for _ in range(steps):
            at = torch.randint(len(ids) - SEEN - 1, (8, 1)) + torch.arange(SEEN)
            scores, _ = model(ids[at])
            loss = functional.cross_entropy(scores.flatten(0, 1), ids[at + 1].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    torch.set_num_threads(threads)
    return model.eval()
