"""Conversions against references written from the formats' definitions, not from the package."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from transcriber import models
from transcriber.errors import ModelLoadError
from transcriber.models import convert, ggml

# --- references -----------------------------------------------------------------------------------


def reference_q8_0(rows: NDArray[np.float32]) -> bytes:
    """Blocks of 32: f16 scale = largest magnitude / 127, then the values over it, rounded half away from
    zero."""
    blocks = rows.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse[:, None]
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    out = np.empty(len(blocks), dtype=[("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = scale.astype("<f2"), rounded
    return out.tobytes()


def reference_q5_1(rows: NDArray[np.float32]) -> bytes:
    """Blocks of 32: f16 step and minimum, then the fifth bits of all values, then their low nibbles in
    pairs."""
    blocks = rows.reshape(-1, 32)
    low = blocks.min(axis=1)
    step = (blocks.max(axis=1) - low) / np.float32(31)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
    q = ((blocks - low[:, None]) * inverse[:, None] + np.float32(0.5)).astype(np.uint8)
    fifth = ((q >> 4).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    out = np.empty(len(blocks), dtype=[("d", "<f2"), ("m", "<f2"), ("h", "<u4"), ("q", "u1", 16)])
    out["d"], out["m"], out["h"] = step.astype("<f2"), low.astype("<f2"), fifth
    out["q"] = (q[:, :16] & 15) | ((q[:, 16:] & 15) << 4)
    return out.tobytes()


def reference_bf16(rows: NDArray[np.float32]) -> bytes:
    """The nearer of the two neighbours with 7 bits of fraction; between them the one whose last bit is 0."""
    bits = rows.ravel().view(np.uint32)
    below = bits & np.uint32(0xFFFF0000)
    above = below + np.uint32(0x10000)
    x, lo, hi = (a.view(np.float32).astype(np.float64) for a in (bits, below, above))
    up = np.abs(hi - x) < np.abs(x - lo)
    tie = np.abs(hi - x) == np.abs(x - lo)
    even = ((below >> 16) & 1) == 0
    return (np.where(up | (tie & ~even), above, below) >> 16).astype("<u2").tobytes()


REFERENCES = {"q8_0": reference_q8_0, "q5_1": reference_q5_1, "bf16": reference_bf16}


def sample_values(name: str, sizes: tuple[int, ...]) -> NDArray[np.float32]:
    """Values like weights, with zero blocks, ties, signs of zero and extremes among them."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(0, 0.2, sizes).astype(np.float16).astype(np.float32)
    flat = values.ravel()
    flat[:32] = 0
    if flat.size >= 256:
        flat[32:64] = -0.0
        flat[64:96] = np.arange(-16, 16) / 32  # ties
        flat[96:128] = 3.0  # all equal
        flat[128] = 65504  # the largest f16
        flat[160] = 2**-24  # the smallest
        flat[192:224] = 1 + np.arange(32) / 1024  # between two bf16 values, many half way
    return values


# --- quantize -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "bf16"])
def test_quantize_equals_the_reference(kind: str, tmp_path: Path, files: Any) -> None:
    source = tmp_path / "f16.bin"
    shape = files.Shape()
    files.write_model(source, shape, sample_values)
    target = tmp_path / "out.bin"
    with target.open("wb") as out:
        convert.quantize(source, kind, out)

    info = ggml.check(target)
    assert info.ftype == kind
    layout = ggml.scan(target)
    data = target.read_bytes()
    ftype = {"q8_0": 2007, "q5_1": 2009, "bf16": 24}[kind]
    assert data[: layout.head_bytes] == files.head_bytes(files.Shape(ftype=ftype))
    matrices = {name for name, _, is_matrix in files.tensor_list(shape) if is_matrix}
    for tensor in layout.tensors:
        stored = data[tensor.offset : tensor.offset + tensor.n_bytes]
        values = sample_values(tensor.name, tensor.shape)
        if tensor.name in matrices:
            assert stored == REFERENCES[kind](values), tensor.name
        elif tensor.name.endswith(("conv1.weight", "conv2.weight")):
            assert stored == values.astype("<f2").tobytes()
        else:
            assert stored == values.astype("<f4").tobytes()


def test_quantize_keeps_the_order_of_the_source(tmp_path: Path, files: Any) -> None:
    source = tmp_path / "f16.bin"
    files.write_model(source)
    target = tmp_path / "out.bin"
    with target.open("wb") as out:
        convert.quantize(source, "bf16", out)
    names = [name for name, _, _ in files.tensor_list(files.Shape())]
    assert [tensor.name for tensor in ggml.scan(target).tensors] == names


def test_quantize_reports_progress_up_to_the_whole(model_file: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    convert.quantize(model_file, "bf16", io.BytesIO(), lambda *call: seen.append(call))
    size = model_file.stat().st_size
    assert seen[-1] == ("convert to bf16", size, size)
    assert [call[1] for call in seen] == sorted(call[1] for call in seen)


def test_quantize_refuses_a_quantized_source(tmp_path: Path, files: Any) -> None:
    source = tmp_path / "q8.bin"
    files.write_model(source, files.Shape(ftype=2007))
    with pytest.raises(ModelLoadError, match="only f16 models can be converted"):
        convert.quantize(source, "q5_1", io.BytesIO())


# --- CTranslate2 ----------------------------------------------------------------------------------


def ct2_variables(shape: Any, values: Any) -> dict[str, NDArray[np.float32]]:
    """Return the variables of a faster-whisper model that holds the same weights as a ggml model."""
    v = {name: values(name, sizes) for name, sizes in ((n, s) for n, s, _ in shape)}
    out: dict[str, NDArray[np.float32]] = {
        "decoder/embeddings/weight": v["decoder.token_embedding.weight"],
        "decoder/position_encodings/encodings": v["decoder.positional_embedding"],
        "encoder/position_encodings/encodings": v["encoder.positional_embedding"],
    }
    for conv in ("conv1", "conv2"):
        out[f"encoder/{conv}/weight"] = v[f"encoder.{conv}.weight"]
        out[f"encoder/{conv}/bias"] = v[f"encoder.{conv}.bias"].ravel()

    def norm(to: str, name: str) -> None:
        out[f"{to}/gamma"], out[f"{to}/beta"] = v[f"{name}.weight"], v[f"{name}.bias"]

    def linear(to: str, *names: str) -> None:
        out[f"{to}/weight"] = np.concatenate([v[f"{name}.weight"] for name in names])
        zeros = np.zeros(len(v[f"{names[0]}.weight"]), np.float32)  # what has no bias
        out[f"{to}/bias"] = np.concatenate([v.get(f"{name}.bias", zeros) for name in names])

    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    for system in ("encoder", "decoder"):
        block, layer = f"{system}.blocks.0", f"{system}/layer_0"
        norm(f"{layer}/ffn/layer_norm", f"{block}.mlp_ln")
        linear(f"{layer}/ffn/linear_0", f"{block}.mlp.0")
        linear(f"{layer}/ffn/linear_1", f"{block}.mlp.2")
        norm(f"{layer}/self_attention/layer_norm", f"{block}.attn_ln")
        linear(f"{layer}/self_attention/linear_0", *(f"{block}.attn.{p}" for p in ("query", "key", "value")))
        linear(f"{layer}/self_attention/linear_1", f"{block}.attn.out")
    norm("decoder/layer_0/attention/layer_norm", "decoder.blocks.0.cross_attn_ln")
    linear("decoder/layer_0/attention/linear_0", "decoder.blocks.0.cross_attn.query")
    linear(
        "decoder/layer_0/attention/linear_1", *(f"decoder.blocks.0.cross_attn.{p}" for p in ("key", "value"))
    )
    linear("decoder/layer_0/attention/linear_2", "decoder.blocks.0.cross_attn.out")
    return out


def ct2_file(variables: dict[str, NDArray[Any]], *, version: int = 6, spec: str = "WhisperSpec") -> bytes:
    codes = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def string(text: str) -> bytes:
        raw = text.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    out = [struct.pack("<I", version), string(spec), struct.pack("<II", 3, len(variables) + 2)]
    out += [string("decoder/pre_norm"), struct.pack("<BBI", 0, 1, 1), b"\1"]
    out += [string("encoder/num_heads"), struct.pack("<BBI", 0, 2, 2), b"\1\0"]
    for name, array in sorted(variables.items()):
        out += [
            string(name),
            struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape),
            struct.pack("<BI", codes[array.dtype.name], array.nbytes),
            array.tobytes(),
        ]
    out += [struct.pack("<I", 1), string("decoder/projection/weight"), string("decoder/embeddings/weight")]
    return b"".join(out)


def tokenizer_file(texts: list[bytes]) -> str:
    """Return a tokenizer.json in which bytes are written as GPT-2 does."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    alphabet = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    vocabulary = {"".join(alphabet[b] for b in text): i for i, text in enumerate(texts)}
    assert len(vocabulary) == len(texts)
    vocabulary["<|endoftext|>"] = len(texts)
    return json.dumps({"model": {"vocab": vocabulary}})


def texts() -> list[bytes]:
    """50257 different tokens: every byte, then longer ones, and an empty one at the end."""
    out = [bytes([b]) for b in range(256)]
    out += [struct.pack(">H", 0x2000 + n) + b"\xc3" for n in range(50256 - 256)]
    return [*out, b""]


@pytest.fixture(scope="module")
def ct2(tmp_path_factory: pytest.TempPathFactory, files: Any) -> Path:
    """A directory like one of faster-whisper: model.bin in float16 and tokenizer.json."""
    directory = tmp_path_factory.mktemp("ct2")
    variables = ct2_variables(files.tensor_list(files.Shape()), sample_values)
    half = {name: values.astype(np.float16) for name, values in variables.items()}
    (directory / "model.bin").write_bytes(ct2_file(half))
    (directory / "tokenizer.json").write_text(tokenizer_file(texts()), encoding="utf-8")
    return directory


def converted(model: Path, tokenizer: Path, target: Path) -> Path:
    with target.open("wb") as out:
        convert.convert_ctranslate2(model, tokenizer, out)
    return target


def test_ctranslate2_model_becomes_the_same_weights(ct2: Path, tmp_path: Path, files: Any) -> None:
    target = converted(ct2 / "model.bin", ct2 / "tokenizer.json", tmp_path / "out.bin")
    info = ggml.check(target)
    assert info.hyper_parameters == ggml.HyperParameters(*files.Shape().numbers())
    data = target.read_bytes()
    layout = ggml.scan(target)
    at = 56 + 4 * 80 * 201
    for text in (None, *texts()):
        if text is None:
            assert struct.unpack_from("<i", data, at) == (50257,)
            at += 4
            continue
        assert data[at : at + 4 + len(text)] == struct.pack("<i", len(text)) + text
        at += 4 + len(text)
    assert at == layout.head_bytes
    for tensor in layout.tensors:
        values = sample_values(tensor.name, tensor.shape)
        dtype = {"f32": "<f4", "f16": "<f2"}[tensor.type.name]
        assert data[tensor.offset : tensor.offset + tensor.n_bytes] == values.astype(dtype).tobytes(), (
            tensor.name
        )


def test_from_ctranslate2_writes_a_whole_file_or_none(ct2: Path, tmp_path: Path) -> None:
    target = models.from_ctranslate2(ct2, tmp_path / "out.bin")
    assert target == tmp_path / "out.bin"
    assert models.check(target).ftype == "f16"
    with pytest.raises(ModelLoadError, match="No such file"):
        models.from_ctranslate2(tmp_path, tmp_path / "none.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_ctranslate2_float32_gives_the_same_file(ct2: Path, tmp_path: Path, files: Any) -> None:
    variables = ct2_variables(files.tensor_list(files.Shape()), sample_values)
    single = tmp_path / "model.bin"
    single.write_bytes(ct2_file(variables))
    half = converted(ct2 / "model.bin", ct2 / "tokenizer.json", tmp_path / "half.bin")
    full = converted(single, ct2 / "tokenizer.json", tmp_path / "full.bin")
    assert half.read_bytes() == full.read_bytes()


def test_ctranslate2_refuses_damage_and_other_models(ct2: Path, tmp_path: Path, files: Any) -> None:
    whole = (ct2 / "model.bin").read_bytes()
    variables = ct2_variables(files.tensor_list(files.Shape()), sample_values)
    half = {name: values.astype(np.float16) for name, values in variables.items()}
    small = {
        name: values[:100] if name == "decoder/embeddings/weight" else values for name, values in half.items()
    }
    integers = half | {"encoder/layer_0/ffn/linear_0/weight": np.zeros((256, 64), np.int8)}
    missing = {name: values for name, values in half.items() if name != "encoder/layer_0/ffn/linear_0/bias"}
    misshapen = half | {"encoder/layer_0/ffn/linear_0/bias": np.zeros(7, np.float16)}
    no_shape = {name: values for name, values in half.items() if name != "encoder/conv1/weight"}
    cases = [(whole[:n], "truncated or not") for n in (1, 3, 5, 18, 30, len(whole) // 2)]
    cases += [
        (b"", "truncated or not"),
        (b"\x00" * 500, "truncated or not"),
        (ct2_file(half, version=5), "truncated or not"),
        (ct2_file(half, spec="TransformerSpec"), "truncated or not"),
        (ct2_file(small), "n_vocab is 100"),
        (ct2_file(integers), "holds integers"),
        (ct2_file(missing), "is missing"),
        (ct2_file(misshapen), "has 7 values"),
        (ct2_file(no_shape), "encoder/conv1/weight is missing"),
    ]
    model = tmp_path / "model.bin"
    for content, reason in cases:
        model.write_bytes(content)
        with pytest.raises(ModelLoadError, match=reason) as caught:
            converted(model, ct2 / "tokenizer.json", tmp_path / "out.bin")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"model": {"vocab": {"a": 0}}}', '{"model": 3}'])
def test_ctranslate2_refuses_a_bad_tokenizer(content: str | None, ct2: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    if content is not None:
        tokenizer.write_text(content)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        converted(ct2 / "model.bin", tokenizer, tmp_path / "out.bin")
