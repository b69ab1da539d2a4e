"""The ggml file format of Whisper models: what a file must hold, and a check that it does.

whisper.cpp trusts its model files: a bad length makes it allocate without bound, a bad type or head count
makes ggml abort the process, a missing tail goes unnoticed until the text is nonsense. `check` therefore
proves, before a byte reaches whisper.cpp, that a file is exactly what its loader (``whisper_model_load``)
expects. It reads headers only and seeks over the weights, so it costs milliseconds whatever the size of the
model.

The layout, all little-endian: u32 magic; 11 × i32 hyper-parameters; mel filters (i32 bands, i32 bins, f32
values); vocabulary (i32 count, then i32 length and bytes for each token); tensors up to the end of the file
(i32 dimensions, i32 length of the name, i32 type, the sizes with the fastest-varying one first, the name, the
data).
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import numpy as np

from transcriber.errors import ModelLoadError

__all__ = ["HyperParameters", "ModelInfo", "check"]

MAGIC = 0x67676D6C
N_BINS = 201  # of the power spectrum of a 400-sample window
HEAD_DIM = 64  # of every attention head of every Whisper model
MIN_VOCABULARY = (
    50256  # the text tokens of GPT-2 without <|endoftext|>; the loader makes up the special tokens itself
)
MAX_TOKEN_BYTES = 128  # the longest of GPT-2, and all that whisper.cpp's tools have room for
MAX_HEADS, MAX_LAYERS = 20, 32  # those of the large models
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION: stored as thousands in the ftype of quantized files

_HYPER = struct.Struct("<I11i")
_TENSOR = struct.Struct("<3i")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
# Longer than the head of any valid model: one read brings the whole of it.
_MAX_HEAD = _HYPER.size + 8 + 4 * 128 * N_BINS + 4 + 51866 * (4 + MAX_TOKEN_BYTES)
_PULL = "run `transcriber models pull base` for a good one"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A ggml storage type: `block_bytes` bytes hold `block` values of one row."""

    code: int
    name: str
    block: int
    block_bytes: int

    def n_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the size of a tensor of `shape` (numpy order: the last dimension is a row)."""
        return math.prod(shape) // self.block * self.block_bytes


F32 = TensorType(0, "f32", 1, 4)
F16 = TensorType(1, "f16", 1, 2)
BF16 = TensorType(30, "bf16", 1, 2)
Q5_1 = TensorType(7, "q5_1", 32, 24)
Q8_0 = TensorType(8, "q8_0", 32, 34)

#: ftype of a file (modulo 1000) -> type of its matrices. Those that whisper.cpp's own tools make, without
#: all-f32, on whose convolutions ggml's CPU backend asserts (im2col wants an f16 kernel).
MATRIX_TYPES: Mapping[int, TensorType] = MappingProxyType(
    {
        1: F16,
        2: TensorType(2, "q4_0", 32, 18),
        3: TensorType(3, "q4_1", 32, 20),
        7: Q8_0,
        8: TensorType(6, "q5_0", 32, 22),
        9: Q5_1,
        10: TensorType(10, "q2_k", 256, 84),
        11: TensorType(11, "q3_k", 256, 110),
        12: TensorType(12, "q4_k", 256, 144),
        13: TensorType(13, "q5_k", 256, 176),
        14: TensorType(14, "q6_k", 256, 210),
        24: BF16,
    }
)


@dataclass(frozen=True, slots=True)
class HyperParameters:
    """The eleven numbers that open a model file, in the file's order."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int
    ftype: int

    @property
    def multilingual(self) -> bool:
        """Whether the vocabulary has language tokens."""
        return self.n_vocab >= 51865

    def pack(self) -> bytes:
        """Return the first 48 bytes of a file: magic and hyper-parameters."""
        return _HYPER.pack(MAGIC, *astuple(self))


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: `shape` in numpy order, `offset` and `n_bytes` of its data."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in a file that has passed the check."""

    hyper_parameters: HyperParameters
    head_bytes: int
    tensors: tuple[Tensor, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `check` found in a model file.

    Parameters
    ----------
    path : Path
        The file.
    hyper_parameters : HyperParameters
        As stored.
    ftype : str
        Type of the matrices: "f16", "bf16", "q8_0", …
    n_tensors : int
        Number of tensors.
    size_bytes : int
        Size of the file.
    multilingual : bool
        Whether the model knows other languages than English.
    type_counts : Mapping[str, int]
        Number of tensors of each storage type.
    """

    path: Path
    hyper_parameters: HyperParameters
    ftype: str
    n_tensors: int
    size_bytes: int
    multilingual: bool
    type_counts: Mapping[str, int]


def check(path: str | os.PathLike[str]) -> ModelInfo:
    """Check that a file is a whole Whisper model that whisper.cpp can load.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    ModelInfo
        Hyper-parameters, types and sizes.

    Raises
    ------
    ModelLoadError
        The file is missing, of another format, damaged, truncated, or has dimensions that no Whisper model
        has. One line: path, reason, what to do.

    Notes
    -----
    Reads the headers only (milliseconds); the values of the weights are proved by the hash at download, not
    here.
    """
    layout = scan(path)
    parameters = layout.hyper_parameters
    return ModelInfo(
        path=Path(path),
        hyper_parameters=parameters,
        ftype=MATRIX_TYPES[parameters.ftype % 1000].name,
        n_tensors=len(layout.tensors),
        size_bytes=layout.size_bytes,
        multilingual=parameters.multilingual,
        type_counts=MappingProxyType(dict(Counter(tensor.type.name for tensor in layout.tensors))),
    )


def scan(path: str | os.PathLike[str]) -> Layout:
    """Do the work of `check`; return where everything is."""
    name = os.fspath(path)
    try:
        # Never wait for a writer, should the path be a named pipe.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelLoadError(f"{name}: no such file; {_PULL}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelLoadError(f"{name}: cannot be opened: {reason}; {_PULL}") from None
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            _refuse(name, "is a directory, not a model file")
        if not stat.S_ISREG(status.st_mode):
            _refuse(name, "is not a regular file")
        head = os.pread(fd, _MAX_HEAD, 0)
        parameters, head_bytes = read_head(head, name)
        tensors = _read_tensors(fd, name, parameters, head_bytes, status.st_size)
        return Layout(parameters, head_bytes, tensors, status.st_size)
    except OSError as error:
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(f"{name}: cannot be read: {error.strerror}; {_PULL}") from None
    finally:
        os.close(fd)


def read_head(data: bytes, name: str) -> tuple[HyperParameters, int]:
    """Check everything before the tensors; return the hyper-parameters and the length of that part.

    `data` is the beginning of the file, long enough for the largest head or up to the end of the file; `name`
    is for messages.
    """
    if not data:
        _refuse(name, "is empty")
    foreign = _foreign_format(data)
    if foreign:
        _refuse(name, f"is {foreign}, not a ggml Whisper model")
    if not data.startswith(_MAGIC_BYTES):
        _refuse(name, f"is not a ggml Whisper model: it begins with {data[:4]!r} instead of {_MAGIC_BYTES!r}")
    if len(data) < _HYPER.size:
        _refuse(name, "is truncated: it ends in the hyper-parameters")
    _, *numbers = _HYPER.unpack_from(data)
    parameters = HyperParameters(*numbers)
    fault = hyper_parameter_fault(parameters)
    if fault:
        _refuse(name, f"is not a Whisper model that can be run: {fault}")

    offset = _HYPER.size
    filters_end = offset + 8 + 4 * parameters.n_mels * N_BINS
    if len(data) < filters_end + 4:
        _refuse(name, "is truncated: it ends in the mel filters")
    n_mels, n_bins = struct.unpack_from("<2i", data, offset)
    if (n_mels, n_bins) != (parameters.n_mels, N_BINS):
        _refuse(
            name, f"is damaged: mel filters of {n_mels} × {n_bins} instead of {parameters.n_mels} × {N_BINS}"
        )
    if not np.isfinite(np.frombuffer(data, "<f4", n_mels * N_BINS, offset + 8)).all():
        _refuse(name, "is damaged: a mel filter is not finite")

    (n_tokens,) = struct.unpack_from("<i", data, filters_end)
    if not MIN_VOCABULARY <= n_tokens <= parameters.n_vocab:
        _refuse(
            name,
            f"is damaged: a vocabulary of {n_tokens} tokens, not {MIN_VOCABULARY} to {parameters.n_vocab}",
        )
    offset = filters_end + 4
    length_at = struct.Struct("<I").unpack_from
    has_space = False
    try:
        for token in range(n_tokens):
            (length,) = length_at(data, offset)
            if length > MAX_TOKEN_BYTES:
                _refuse(name, f"is damaged: token {token} of the vocabulary is {length} bytes long")
            if length == 1 and data[offset + 4] == ord(" "):
                has_space = True
            offset += 4 + length
    except (struct.error, IndexError):
        offset = len(data) + 1
    if offset > len(data):
        _refuse(name, "is truncated: it ends in the vocabulary")
    if not has_space:  # the one token that whisper.cpp looks up by its text, and throws if it is not there
        _refuse(name, "is damaged: its vocabulary has no token for a space")
    return parameters, offset


def expected_tensors(parameters: HyperParameters) -> dict[str, tuple[tuple[int, ...], TensorType]]:
    """Return name -> (shape in numpy order, type) of every tensor, in the order of the official files."""
    p = parameters
    matrix = MATRIX_TYPES[p.ftype % 1000]
    tensors: dict[str, tuple[tuple[int, ...], TensorType]] = {}

    def norm(name: str, state: int) -> None:
        tensors[f"{name}.weight"] = (state,), F32
        tensors[f"{name}.bias"] = (state,), F32

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = (rows, columns), matrix
        if bias:
            tensors[f"{name}.bias"] = (rows,), F32

    def attention(name: str, state: int) -> None:
        norm(f"{name}_ln", state)
        linear(f"{name}.query", state, state)
        linear(f"{name}.key", state, state, bias=False)
        linear(f"{name}.value", state, state)
        linear(f"{name}.out", state, state)

    def block(name: str, state: int) -> None:
        norm(f"{name}.mlp_ln", state)
        linear(f"{name}.mlp.0", 4 * state, state)
        linear(f"{name}.mlp.2", state, 4 * state)
        attention(f"{name}.attn", state)

    tensors["decoder.positional_embedding"] = (p.n_text_ctx, p.n_text_state), F32
    tensors["encoder.positional_embedding"] = (p.n_audio_ctx, p.n_audio_state), F32
    tensors["decoder.token_embedding.weight"] = (p.n_vocab, p.n_text_state), matrix
    for layer in range(p.n_text_layer):
        block(f"decoder.blocks.{layer}", p.n_text_state)
        attention(f"decoder.blocks.{layer}.cross_attn", p.n_text_state)
    norm("decoder.ln", p.n_text_state)
    # Convolutions stay f16 whatever the matrices are; their biases are stored as columns.
    for conv, n_in in (("encoder.conv1", p.n_mels), ("encoder.conv2", p.n_audio_state)):
        tensors[f"{conv}.weight"] = (p.n_audio_state, n_in, 3), F16
        tensors[f"{conv}.bias"] = (p.n_audio_state, 1), F32
    for layer in range(p.n_audio_layer):
        block(f"encoder.blocks.{layer}", p.n_audio_state)
    norm("encoder.ln_post", p.n_audio_state)
    return tensors


def tensor_header(name: str, shape: tuple[int, ...], type: TensorType) -> bytes:
    """Return what stands before the data of a tensor."""
    raw = name.encode()
    return (
        _TENSOR.pack(len(shape), len(raw), type.code) + struct.pack(f"<{len(shape)}i", *reversed(shape)) + raw
    )


def with_ftype(parameters: HyperParameters, ftype: int) -> HyperParameters:
    """Return `parameters` for another type of matrices; quantized ones carry the version of the
    quantization."""
    quantized = MATRIX_TYPES[ftype].block > 1
    return replace(parameters, ftype=ftype + 1000 * QUANTIZATION_VERSION * quantized)


def _read_tensors(
    fd: int, name: str, parameters: HyperParameters, offset: int, size: int
) -> tuple[Tensor, ...]:
    """Walk the tensor headers up to the end of the file."""
    missing = expected_tensors(parameters)
    longest = _TENSOR.size + 4 * 4 + max(map(len, missing))
    tensors = []
    while offset < size:
        header = os.pread(fd, longest, offset)
        if len(header) < _TENSOR.size:
            _refuse(name, "is truncated: it ends in the header of a tensor")
        n_dims, name_bytes, code = _TENSOR.unpack_from(header)
        names_at = _TENSOR.size + 4 * n_dims
        if not 1 <= n_dims <= 4 or not 1 <= name_bytes <= longest - names_at:
            _refuse(name, f"is damaged: no tensor begins at byte {offset}")
        if len(header) < names_at + name_bytes:
            _refuse(name, "is truncated: it ends in the header of a tensor")
        shape = struct.unpack_from(f"<{n_dims}i", header, _TENSOR.size)[::-1]
        tensor = header[names_at : names_at + name_bytes].decode("ascii", errors="replace")
        if tensor not in missing:
            _refuse(name, f"is damaged: tensor {tensor!r} at byte {offset} is unknown or comes twice")
        want, type_ = missing.pop(tensor)
        if shape != want:
            _refuse(name, f"is damaged: tensor {tensor} is {_times(shape)} instead of {_times(want)}")
        if code != type_.code:
            _refuse(
                name, f"is damaged: tensor {tensor} has type {code} instead of {type_.code} ({type_.name})"
            )
        data = offset + names_at + name_bytes
        n_bytes = type_.n_bytes(want)
        offset = data + n_bytes
        if offset > size:
            _refuse(name, f"is truncated: {size} bytes, at least {offset} wanted")
        tensors.append(Tensor(tensor, want, type_, data, n_bytes))
    if not tensors:
        _refuse(name, "has no weights: it is one of whisper.cpp's test files")
    if missing:
        _refuse(name, f"is truncated: {len(missing)} tensors are missing, {next(iter(missing))} first")
    return tuple(tensors)


def hyper_parameter_fault(p: HyperParameters) -> str | None:
    """Say what no Whisper model has and whisper.cpp cannot survive."""
    # With any other number whisper.cpp names a language that it does not have, and throws.
    if p.n_vocab not in (51864, 51865, 51866):
        return f"n_vocab is {p.n_vocab}, not 51864, 51865 or 51866"
    if (p.n_audio_ctx, p.n_text_ctx) != (1500, 448):
        return f"n_audio_ctx and n_text_ctx are {p.n_audio_ctx} and {p.n_text_ctx}, not 1500 and 448"
    if p.n_mels not in (80, 128):
        return f"n_mels is {p.n_mels}, not 80 or 128"
    if not 1 <= p.n_audio_head <= MAX_HEADS:
        return f"{p.n_audio_head} heads, not 1 to {MAX_HEADS}"
    if p.n_audio_state != HEAD_DIM * p.n_audio_head:
        return f"n_audio_state is {p.n_audio_state} with {p.n_audio_head} heads, not {HEAD_DIM} each"
    if (p.n_text_state, p.n_text_head) != (p.n_audio_state, p.n_audio_head):
        return f"the decoder's state is {p.n_text_state} with {p.n_text_head} heads, unlike the encoder's"
    if not 1 <= p.n_audio_layer <= MAX_LAYERS or not 1 <= p.n_text_layer <= MAX_LAYERS:
        return f"{p.n_audio_layer} and {p.n_text_layer} layers, not 1 to {MAX_LAYERS}"
    if p.ftype == 0:
        return "all of its weights are f32, with which whisper.cpp aborts; convert it to f16"
    version, ftype = divmod(p.ftype, 1000)
    if ftype not in MATRIX_TYPES or not 0 <= version <= QUANTIZATION_VERSION:
        return f"ftype {p.ftype} is unknown"
    if p.n_audio_state % MATRIX_TYPES[ftype].block:
        return f"rows of {p.n_audio_state} values cannot be stored as {MATRIX_TYPES[ftype].name}"
    return None


def _foreign_format(data: bytes) -> str | None:
    """Name the format of a file that people take for a ggml model."""
    if data.startswith(b"GGUF"):
        return "a GGUF file"
    if data.startswith(b"PK\x03\x04"):
        return "a PyTorch checkpoint or another zip archive"
    if data.startswith(b"\x80\x02"):
        return "a pickled PyTorch checkpoint"
    if data[8:10] == b'{"':
        return "a safetensors file"
    if data[4:18] == b"\x0c\x00WhisperSpec\x00":
        return "a CTranslate2 (faster-whisper) model"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (the model itself was never downloaded)"
    if data[4:18] == b"\x0a\x00\x00\x00silero-16k":
        return "a Silero VAD model"
    return None


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _refuse(name: str, fault: str) -> NoReturn:
    raise ModelLoadError(f"{name}: {fault}; {_PULL}")
