"""Turn one model file into another: CTranslate2 to ggml f16, and ggml f16 to bf16, q8_0 or q5_1.

Everything streams: a conversion needs the memory of one tensor, not of the model.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from transcriber.errors import ModelLoadError
from transcriber.models import ggml

__all__ = ["KINDS", "convert_ctranslate2", "quantize"]

Progress = Callable[[str, int, int], None]

#: What `quantize` can make -> ftype of the file.
KINDS = {"bf16": 24, "q8_0": 7, "q5_1": 9}

_CHUNK_VALUES = 1 << 21  # values converted at a time: 8 MB as float32


def quantize(source: Path, kind: str, out: BinaryIO, progress: Progress | None = None) -> None:
    """Write the ggml f16 model `source` as `kind` ("bf16", "q8_0" or "q5_1") to `out`.

    q8_0 and q5_1 files equal those of whisper.cpp's own quantize program byte for byte: matrices are
    quantized; convolutions stay f16, and positional embeddings, norms and biases f32. bf16 keeps the same
    split.

    Raises
    ------
    ModelLoadError
        `source` is not a whole ggml f16 model.
    """
    layout = ggml.scan(source)
    if ggml.MATRIX_TYPES[layout.hyper_parameters.ftype % 1000] is not ggml.F16:
        raise ModelLoadError(
            f"{source}: only f16 models can be converted; start from the f16 file of the model"
        )
    parameters = ggml.with_ftype(layout.hyper_parameters, KINDS[kind])
    expected = ggml.expected_tensors(parameters)
    data = np.memmap(source, np.uint8, "r")
    head = parameters.pack()
    out.write(head)
    out.write(data[len(head) : layout.head_bytes].tobytes())
    for tensor in layout.tensors:
        stored = data[tensor.offset : tensor.offset + tensor.n_bytes]
        target = expected[tensor.name][1]
        out.write(ggml.tensor_header(tensor.name, tensor.shape, target))
        if target is tensor.type:
            out.write(stored.tobytes())
        else:
            for rows in _chunks(stored.view("<f2").reshape(tensor.shape)):
                out.write(_as_bf16(rows) if kind == "bf16" else _quantized(kind, rows))
        if progress:
            progress(f"convert to {kind}", tensor.offset + tensor.n_bytes, layout.size_bytes)


def _chunks(matrix: NDArray[np.float16]) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of a matrix as float32, a few megabytes at a time."""
    step = max(1, _CHUNK_VALUES // matrix.shape[1])
    for row in range(0, len(matrix), step):
        yield matrix[row : row + step].astype(np.float32)


def _as_bf16(rows: NDArray[np.float32]) -> bytes:
    """Round to bfloat16, to nearest, ties to even."""
    bits = rows.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2").tobytes()


def _quantized(kind: str, rows: NDArray[np.float32]) -> bytes:
    from transcriber import _engine  # here, because the engine imports transcriber.models to check its files

    return _engine.quantize(kind, rows)


# --- CTranslate2 --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Variable:
    shape: tuple[int, ...]
    dtype: int
    offset: int


_N_TEXT_TOKENS = 50257
_NUMPY = {ggml.F32: "<f4", ggml.F16: "<f2"}
#: dtype code of CTranslate2 -> numpy dtype: float32, int8, int16, int32, float16.
_DTYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"))


def convert_ctranslate2(
    source: Path, tokenizer: Path, out: BinaryIO, progress: Progress | None = None
) -> None:
    """Write a CTranslate2 Whisper model (``model.bin`` and ``tokenizer.json`` of faster-whisper) as ggml f16
    to `out`.

    Multilingual models with the vocabulary of 51865 tokens (tiny, base, small, medium, large-v1, large-v2),
    stored as float16 or float32. For base the result is the official ``ggml-base.bin``, bit for bit.

    Raises
    ------
    ModelLoadError
        `source` is not such a model.
    """
    model = _CTranslate2(source)
    parameters = model.hyper_parameters()
    written = out.write(parameters.pack() + _mel_filters() + _vocabulary(tokenizer))
    expected = ggml.expected_tensors(parameters)
    total = sum(type_.n_bytes(shape) for shape, type_ in expected.values())
    for name, (shape, type_) in expected.items():
        out.write(ggml.tensor_header(name, shape, type_))
        written += out.write(model.tensor(name, shape).astype(_NUMPY[type_], copy=False).tobytes())
        if progress:
            progress("convert", min(written, total), total)


def _mel_filters() -> bytes:
    """Return the mel filters of every 80-band model as they stand in a ggml file.

    They are cut out of the header file that whisper.cpp keeps for its tests. Computing them anew would give a
    value of +0.0 that is −0.0 in all official files, and so another hash. The vocabulary beside them is of no
    use: bytes that are not UTF-8 are lost in it.
    """
    head = (resources.files("transcriber") / "data" / "ggml-base-head.bin").read_bytes()
    return head[48 : 48 + 8 + 4 * 80 * ggml.N_BINS]


def _vocabulary(tokenizer: Path) -> bytes:
    """Return the text tokens of a tokenizer.json as they stand in a ggml file: count, then length and bytes
    of each.

    The special tokens (<|endoftext|> and up) are not among them: whisper.cpp makes them up from the size of
    the vocabulary.
    """
    try:
        ids = json.loads(tokenizer.read_bytes())["model"]["vocab"]
        # GPT-2 writes bytes as printable characters: those that are printable in Latin-1 as themselves, the
        # others, in order, from U+0100 up.
        printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
        others = (byte for byte in range(256) if byte not in printable)
        byte_of = {chr(byte): byte for byte in printable} | {
            chr(0x100 + n): byte for n, byte in enumerate(others)
        }
        text_of = {number: text for text, number in ids.items()}
        tokens = [
            bytes(byte_of[character] for character in text_of[number]) for number in range(_N_TEXT_TOKENS)
        ]
    except FileNotFoundError:
        raise ModelLoadError(
            f"{tokenizer}: no such file; it belongs beside model.bin, download the whole model"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelLoadError(
            f"{tokenizer}: is not the tokenizer of a multilingual Whisper model; download it again"
        ) from None
    return struct.pack("<i", len(tokens)) + b"".join(
        struct.pack("<i", len(token)) + token for token in tokens
    )


class _CTranslate2:
    """The variables of a mapped CTranslate2 file (binary version 6, Whisper specification)."""

    def __init__(self, source: Path) -> None:
        self._source = source
        try:
            self._data = np.memmap(source, np.uint8, "r")
            self._variables = self._read_index(self._data.data)
        except OSError as error:
            raise self._fault(f"cannot be read: {error.strerror}") from None
        except (struct.error, ValueError):  # ValueError: an empty file, or a name that is not UTF-8
            raise self._fault("is truncated or not a CTranslate2 Whisper model of binary version 6") from None

    def _fault(self, what: str) -> ModelLoadError:
        return ModelLoadError(
            f"{self._source}: {what}; convert a float16 or float32 model.bin of faster-whisper"
        )

    def _read_index(self, data: memoryview) -> dict[str, _Variable]:
        offset = 0

        def number(code: str) -> int:
            nonlocal offset
            (value,) = struct.unpack_from(f"<{code}", data, offset)
            offset += struct.calcsize(f"<{code}")
            return int(value)

        def string() -> str:
            nonlocal offset
            length = number("H")
            offset += length
            return bytes(data[offset - length : offset]).rstrip(b"\0").decode()

        if (number("I"), string()) != (6, "WhisperSpec"):
            raise struct.error
        number("I")  # revision of the specification
        variables = {}
        for _ in range(number("I")):
            name = string()
            shape = tuple(number("I") for _ in range(number("B")))
            dtype, n_bytes = number("B"), number("I")
            variables[name] = _Variable(shape, dtype, offset)
            offset += n_bytes
            if (
                offset > len(data)
                or dtype >= len(_DTYPES)
                or n_bytes != math.prod(shape) * _DTYPES[dtype].itemsize
            ):
                raise struct.error
        return variables

    def _array(self, name: str) -> NDArray[np.floating[Any]]:
        variable = self._variables.get(name)
        if variable is None:
            raise self._fault(f"variable {name} is missing")
        if variable.dtype not in (0, 4):
            raise self._fault(f"variable {name} holds integers: quantized models cannot be converted")
        dtype: np.dtype[Any] = _DTYPES[variable.dtype]
        end = variable.offset + dtype.itemsize * math.prod(variable.shape)
        return self._data[variable.offset : end].view(dtype).reshape(variable.shape)

    def hyper_parameters(self) -> ggml.HyperParameters:
        """Derive them from the shapes, and check them."""

        def shape(name: str, rank: int) -> tuple[int, ...]:
            variable = self._variables.get(name)
            if variable is None or len(variable.shape) != rank:
                raise self._fault(f"variable {name} is missing or has the wrong rank")
            return variable.shape

        def layers(part: str) -> int:
            names = (name.split("/") for name in self._variables)
            return len({name[1] for name in names if name[0] == part and len(name) > 3})

        n_vocab, n_text_state = shape("decoder/embeddings/weight", 2)
        n_audio_ctx, n_audio_state = shape("encoder/position_encodings/encodings", 2)
        parameters = ggml.HyperParameters(
            n_vocab=n_vocab,
            n_audio_ctx=n_audio_ctx,
            n_audio_state=n_audio_state,
            n_audio_head=n_audio_state // ggml.HEAD_DIM,
            n_audio_layer=layers("encoder"),
            n_text_ctx=shape("decoder/position_encodings/encodings", 2)[0],
            n_text_state=n_text_state,
            n_text_head=n_text_state // ggml.HEAD_DIM,
            n_text_layer=layers("decoder"),
            n_mels=shape("encoder/conv1/weight", 3)[1],
            ftype=1,
        )
        fault = ggml.hyper_parameter_fault(parameters)
        if fault is None and (parameters.n_vocab, parameters.n_mels) != (51865, 80):
            fault = f"a vocabulary of {n_vocab} tokens and {parameters.n_mels} mel bands, not 51865 and 80"
        if fault:
            raise self._fault(f"cannot be converted: {fault}")
        return parameters

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.floating[Any]]:
        """Return the values of the ggml tensor `name`."""
        variable, part, parts = _ctranslate2_place(name)
        values = self._array(variable)
        if parts > 1:
            rows = len(values) // parts
            values = values[part * rows : (part + 1) * rows]
        if values.size != math.prod(shape):
            raise self._fault(f"variable {variable} has {values.size} values for {shape}")
        return values.reshape(shape)


_FIXED = {
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "decoder.token_embedding.weight": "decoder/embeddings/weight",
    "encoder.conv1": "encoder/conv1",
    "encoder.conv2": "encoder/conv2",
    "decoder.ln": "decoder/layer_norm",
    "encoder.ln_post": "encoder/layer_norm",
}
# Within a block: ggml module -> (CTranslate2 module, which of how many matrices stacked in it).
_IN_BLOCK = {
    "mlp_ln": ("ffn/layer_norm", 0, 1),
    "mlp.0": ("ffn/linear_0", 0, 1),
    "mlp.2": ("ffn/linear_1", 0, 1),
    "attn_ln": ("self_attention/layer_norm", 0, 1),
    "attn.query": ("self_attention/linear_0", 0, 3),
    "attn.key": ("self_attention/linear_0", 1, 3),
    "attn.value": ("self_attention/linear_0", 2, 3),
    "attn.out": ("self_attention/linear_1", 0, 1),
    "cross_attn_ln": ("attention/layer_norm", 0, 1),
    "cross_attn.query": ("attention/linear_0", 0, 1),
    "cross_attn.key": ("attention/linear_1", 0, 2),
    "cross_attn.value": ("attention/linear_1", 1, 2),
    "cross_attn.out": ("attention/linear_2", 0, 1),
}


def _ctranslate2_place(name: str) -> tuple[str, int, int]:
    """Return where a ggml tensor is: variable, and which of how many parts stacked in it."""
    if name in _FIXED:
        return _FIXED[name], 0, 1
    module, _, leaf = name.rpartition(".")
    if module in _FIXED:
        place, part, parts = _FIXED[module], 0, 1
    else:
        system, _, layer, inner = module.split(".", 3)
        within, part, parts = _IN_BLOCK[inner]
        place = f"{system}/layer_{layer}/{within}"
    if place.endswith("layer_norm"):
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    return f"{place}/{leaf}", part, parts
