"""Small ggml Whisper files, written independently of the package.

Names and shapes are those that whisper.cpp's loader asks for.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# ftype -> (type code, values in a block, bytes of a block)
TYPES = {
    0: (0, 1, 4),
    1: (1, 1, 2),
    2: (2, 32, 18),
    3: (3, 32, 20),
    7: (8, 32, 34),
    8: (6, 32, 22),
    9: (7, 32, 24),
    10: (10, 256, 84),
    11: (11, 256, 110),
    12: (12, 256, 144),
    13: (13, 256, 176),
    14: (14, 256, 210),
    24: (30, 1, 2),
}


@dataclass
class Shape:
    """The eleven hyper-parameters and the length of the vocabulary."""

    n_vocab: int = 51865
    n_audio_ctx: int = 1500
    n_audio_state: int = 64
    n_audio_head: int = 1
    n_audio_layer: int = 1
    n_text_ctx: int = 448
    n_text_state: int = 64
    n_text_head: int = 1
    n_text_layer: int = 1
    n_mels: int = 80
    ftype: int = 1
    tokens: tuple[bytes, ...] = (b"ab",) * 50256 + (b" ",)

    def numbers(self) -> tuple[int, ...]:
        return (
            self.n_vocab, self.n_audio_ctx, self.n_audio_state, self.n_audio_head, self.n_audio_layer,
            self.n_text_ctx, self.n_text_state, self.n_text_head, self.n_text_layer, self.n_mels, self.ftype,
        )  # fmt: skip


def tensor_list(shape: Shape) -> list[tuple[str, tuple[int, ...], bool]]:
    """Return (name, sizes with the slowest first, is it a matrix) of all tensors."""
    out: list[tuple[str, tuple[int, ...], bool]] = []
    for system, state, layers in (
        ("encoder", shape.n_audio_state, shape.n_audio_layer),
        ("decoder", shape.n_text_state, shape.n_text_layer),
    ):
        for i in range(layers):
            block = f"{system}.blocks.{i}"
            attentions = ["attn"] if system == "encoder" else ["attn", "cross_attn"]
            for norm in ["mlp_ln", *(f"{a}_ln" for a in attentions)]:
                out += [
                    (f"{block}.{norm}.weight", (state,), False),
                    (f"{block}.{norm}.bias", (state,), False),
                ]
            out += [
                (f"{block}.mlp.0.weight", (4 * state, state), True),
                (f"{block}.mlp.0.bias", (4 * state,), False),
                (f"{block}.mlp.2.weight", (state, 4 * state), True),
                (f"{block}.mlp.2.bias", (state,), False),
            ]
            for attention in attentions:
                for part in ("query", "key", "value", "out"):
                    out.append((f"{block}.{attention}.{part}.weight", (state, state), True))
                    if part != "key":
                        out.append((f"{block}.{attention}.{part}.bias", (state,), False))
    audio, text = shape.n_audio_state, shape.n_text_state
    out += [
        ("encoder.positional_embedding", (shape.n_audio_ctx, audio), False),
        ("encoder.conv1.weight", (audio, shape.n_mels, 3), False),
        ("encoder.conv1.bias", (audio, 1), False),
        ("encoder.conv2.weight", (audio, audio, 3), False),
        ("encoder.conv2.bias", (audio, 1), False),
        ("encoder.ln_post.weight", (audio,), False),
        ("encoder.ln_post.bias", (audio,), False),
        ("decoder.positional_embedding", (shape.n_text_ctx, text), False),
        ("decoder.token_embedding.weight", (shape.n_vocab, text), True),
        ("decoder.ln.weight", (text,), False),
        ("decoder.ln.bias", (text,), False),
    ]
    return out


def storage(shape: Shape, name: str, is_matrix: bool) -> tuple[int, int, int]:
    """Return the type of a tensor: convolutions are f16, or f32 in an f32 file, everything small is f32."""
    if is_matrix:
        return TYPES[shape.ftype % 1000]
    if name in ("encoder.conv1.weight", "encoder.conv2.weight"):
        return TYPES[0 if shape.ftype == 0 else 1]
    return TYPES[0]


@functools.lru_cache
def vocabulary(tokens: tuple[bytes, ...]) -> bytes:
    """Return the vocabulary as it stands in a file."""
    return struct.pack("<i", len(tokens)) + b"".join(struct.pack("<i", len(t)) + t for t in tokens)


def head_bytes(shape: Shape) -> bytes:
    """Return all that comes before the tensors."""
    filters = np.linspace(0, 1, shape.n_mels * 201, dtype="<f4").tobytes()
    return b"".join(
        [
            struct.pack("<I11i", 0x67676D6C, *shape.numbers()),
            struct.pack("<2i", shape.n_mels, 201),
            filters,
            vocabulary(shape.tokens),
        ]
    )


def tensor_header(name: str, sizes: tuple[int, ...], code: int) -> bytes:
    return (
        struct.pack("<3i", len(sizes), len(name), code)
        + struct.pack(f"<{len(sizes)}i", *sizes[::-1])
        + name.encode()
    )


def write_model(
    path: Path,
    shape: Shape | None = None,
    values: Callable[[str, tuple[int, ...]], np.ndarray] | None = None,
    tensors: Iterable[tuple[str, tuple[int, ...], bool]] | None = None,
) -> list[tuple[int, int]]:
    """Write a model; return (offset, length) of every tensor header. Without `values` the data is a hole of
    zeros.

    `values` gives the float values of an f16 model.
    """
    shape = shape or Shape()
    headers = []
    with path.open("wb") as file:
        file.write(head_bytes(shape))
        for name, sizes, is_matrix in tensor_list(shape) if tensors is None else tensors:
            code, block, block_bytes = storage(shape, name, is_matrix)
            header = tensor_header(name, sizes, code)
            headers.append((file.tell(), len(header)))
            file.write(header)
            if values is None:
                file.seek(int(np.prod(sizes)) // block * block_bytes, 1)
            else:
                file.write(values(name, sizes).astype({0: "<f4", 1: "<f2"}[code]).tobytes())
        file.truncate()
    return headers


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """Everything above, for test modules."""
    return SimpleNamespace(
        TYPES=TYPES,
        Shape=Shape,
        tensor_list=tensor_list,
        head_bytes=head_bytes,
        tensor_header=tensor_header,
        write_model=write_model,
    )


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A whole tiny f16 model of zeros: one layer, one head."""
    path = tmp_path / "ggml-tiny-test.bin"
    write_model(path)
    return path
