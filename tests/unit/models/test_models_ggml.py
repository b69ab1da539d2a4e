"""The check refuses whatever whisper.cpp would choke on, and nothing else."""

from __future__ import annotations

import os
import shutil
import struct
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transcriber.errors import ModelLoadError, ModelUnavailableError
from transcriber.models import catalogue, ggml

FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


HEADERS: dict[Path, list[tuple[int, int]]] = {}


def refusal(path: Path) -> str:
    """Check a file that must be refused; return the reason."""
    with pytest.raises(ModelLoadError) as caught:
        ggml.check(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "transcriber models pull" in message
    return message.removeprefix(f"{path}: ")


def test_check_accepts_a_whole_model_and_describes_it(model_file: Path, files: Any) -> None:
    info = ggml.check(model_file)
    assert info.path == model_file
    assert info.ftype == "f16"
    assert info.multilingual
    assert info.size_bytes == model_file.stat().st_size
    assert info.n_tensors == len(files.tensor_list(files.Shape()))
    # Matrices: 6 of the encoder's block, 10 of the decoder's, the embedding, and the two convolutions.
    assert info.type_counts == {"f32": info.n_tensors - 19, "f16": 19}
    assert info.hyper_parameters.n_audio_state == 64


@pytest.mark.parametrize("ftype", [1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 24])
def test_check_accepts_every_type_that_whisper_cpp_makes(ftype: int, tmp_path: Path, files: Any) -> None:
    path = tmp_path / "model.bin"
    stored = ftype + (2000 if files.TYPES[ftype][1] > 1 else 0)
    files.write_model(
        path, files.Shape(n_audio_state=256, n_audio_head=4, n_text_state=256, n_text_head=4, ftype=stored)
    )
    info = ggml.check(path)
    assert info.hyper_parameters.ftype == stored
    assert len(info.type_counts) == (2 if ftype == 1 else 3)


def test_check_accepts_english_only_turbo_and_distilled_shapes(tmp_path: Path, files: Any) -> None:
    shapes = (
        files.Shape(n_vocab=51864, tokens=(b"x",) * 50255 + (b" ",)),
        files.Shape(n_vocab=51866, n_mels=128, n_audio_layer=3, n_text_layer=1),
        files.Shape(n_audio_layer=1, n_text_layer=2),
    )
    for shape in shapes:
        path = tmp_path / "model.bin"
        files.write_model(path, shape)
        assert ggml.check(path).multilingual == (shape.n_vocab != 51864)


def test_check_does_not_mind_the_order_of_tensors(tmp_path: Path, files: Any) -> None:
    path = tmp_path / "model.bin"
    files.write_model(path, tensors=files.tensor_list(files.Shape())[::-1])
    ggml.check(path)


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "is empty"),
        (b"GGUF\x03\x00\x00\x00" + bytes(90), "is a GGUF file"),
        (b"PK\x03\x04" + bytes(90), "is a PyTorch checkpoint"),
        (b"\x80\x02}q\x00" + bytes(90), "is a pickled PyTorch checkpoint"),
        (struct.pack("<Q", 5000) + b'{"model.decoder' + bytes(90), "is a safetensors file"),
        (struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(90), "is a CTranslate2 (faster-whisper) model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"lmgg\x0a\x00\x00\x00silero-16k" + bytes(90), "is a Silero VAD model"),
        (b"<!DOCTYPE html><html>" + bytes(90), "is not a ggml Whisper model: it begins with b'<!DO'"),
        (b"lmgg\x99\xca", "is truncated: it ends in the hyper-parameters"),
        (b"RI", "is not a ggml Whisper model: it begins with b'RI'"),
    ],
)
def test_check_names_other_formats(start: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(start)
    assert refusal(path).startswith(reason)


def test_check_refuses_the_vad_weights_and_the_header_file_in_the_package(tmp_path: Path) -> None:
    data = resources.files("transcriber") / "data"
    for name, reason in (("ggml-silero-v6.2.0.bin", "Silero"), ("ggml-base-head.bin", "has no weights")):
        with resources.as_file(data / name) as path:
            assert reason in refusal(path)


def test_check_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.bin")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(pipe)  # at once, though nobody writes to it
    assert "not a regular file" in refusal(Path(os.devnull))


def test_check_refuses_a_path_with_a_nul(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be opened"):
        ggml.check("model\0.bin")


# --- damage ---------------------------------------------------------------------------------------


@FUZZ
@given(data=st.data())
def test_check_refuses_a_file_cut_anywhere(data: st.DataObject, model_file: Path, tmp_path: Path) -> None:
    size = model_file.stat().st_size
    length = data.draw(
        st.one_of(st.integers(0, size - 1), st.integers(0, 60), st.integers(size - 20, size - 1))
    )
    cut = tmp_path / "cut.bin"
    shutil.copyfile(model_file, cut)
    os.truncate(cut, length)
    refusal(cut)


def test_check_refuses_a_file_cut_at_any_edge(tmp_path: Path, files: Any) -> None:
    whole = tmp_path / "whole.bin"
    headers = files.write_model(whole)
    headers = [*headers[:4], *headers[-4:]]
    edges = {0, 4, 48, 56, len(files.head_bytes(files.Shape()))}
    edges |= {edge for offset, length in headers for edge in (offset, offset + 12, offset + length)}
    cut = tmp_path / "cut.bin"
    shutil.copyfile(whole, cut)
    for edge in sorted({e + d for e in edges for d in (-1, 0, 1) if e + d >= 0}, reverse=True):
        os.truncate(cut, edge)
        refusal(cut)


@FUZZ
@given(more=st.binary(min_size=1, max_size=300))
def test_check_refuses_bytes_after_the_end(more: bytes, model_file: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.bin"
    shutil.copyfile(model_file, longer)
    with longer.open("ab") as file:
        file.write(more)
    refusal(longer)


@FUZZ
@given(
    which=st.integers(0, 9),
    value=st.one_of(
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-2, 2000),
        st.sampled_from([2**31 - 1, -(2**31), 51864, 51866, 51867]),
    ),
)
def test_check_refuses_any_other_hyper_parameter(
    which: int, value: int, model_file: Path, files: Any
) -> None:
    original = files.Shape().numbers()[which]
    with model_file.open("r+b") as file:
        file.seek(4 + 4 * which)
        file.write(struct.pack("<i", value))
        file.flush()
        if value != original:
            refusal(model_file)
        file.seek(4 + 4 * which)
        file.write(struct.pack("<i", original))


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"n_vocab": 51867}, "n_vocab is 51867"),
        ({"n_vocab": 51000}, "n_vocab is 51000"),
        ({"n_audio_ctx": 3000}, "n_audio_ctx and n_text_ctx are 3000 and 448"),
        ({"n_text_ctx": 4}, "n_audio_ctx and n_text_ctx are 1500 and 4"),
        ({"n_mels": 64}, "n_mels is 64"),
        ({"n_audio_head": 2, "n_text_head": 2}, "n_audio_state is 64 with 2 heads"),
        ({"n_audio_head": 0, "n_text_head": 0}, "0 heads, not 1 to 20"),
        ({"n_text_state": 128, "n_text_head": 2}, "unlike the encoder's"),
        ({"n_text_head": 7}, "unlike the encoder's"),
        ({"n_audio_layer": 0}, "0 and 1 layers"),
        ({"n_text_layer": 33}, "1 and 33 layers"),
    ],
)
def test_check_refuses_shapes_that_no_whisper_model_has_even_if_all_fits(
    numbers: dict[str, int], reason: str, tmp_path: Path, files: Any
) -> None:
    path = tmp_path / "model.bin"
    tokens = (b"ab",) * 50255 + (b" ",)
    files.write_model(path, files.Shape(**numbers, tokens=tokens))
    assert reason in refusal(path)


@FUZZ
@given(ftype=st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-30, 3000)))
def test_check_refuses_any_other_ftype(ftype: int, model_file: Path) -> None:
    with model_file.open("r+b") as file:
        file.seek(4 + 40)
        file.write(struct.pack("<i", ftype))
    if ftype in (1, 1001, 2001):  # the thousands are a version, of which f16 takes no notice
        ggml.check(model_file)
    else:
        refusal(model_file)


@FUZZ
@given(data=st.data())
def test_check_refuses_a_flipped_bit_in_any_tensor_header(
    data: st.DataObject, tmp_path: Path, files: Any
) -> None:
    path = tmp_path / "model.bin"
    if not path.exists():  # one file for all examples
        HEADERS[path] = files.write_model(path)
    offset, length = data.draw(st.sampled_from(HEADERS[path]))
    at, bit = offset + data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 7))
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        for value, wrong in ((byte ^ (1 << bit), True), (byte, False)):
            file.seek(at)
            file.write(bytes([value]))
            file.flush()
            if wrong:
                refusal(path)


@FUZZ
@given(token=st.integers(0, 50255), length=st.integers(0, 2**32 - 1).filter(lambda n: n != 2))
def test_check_refuses_a_wrong_token_length(token: int, length: int, model_file: Path, files: Any) -> None:
    at = len(files.head_bytes(files.Shape())) - 5 - (50256 - token) * 6
    with model_file.open("r+b") as file:
        file.seek(at)
        assert struct.unpack("<I", file.read(4)) == (2,)
        file.seek(at)
        file.write(struct.pack("<I", length))
        file.flush()
        refusal(model_file)
        file.seek(at)
        file.write(struct.pack("<I", 2))


@pytest.mark.parametrize("at", [48, 52])
def test_check_refuses_wrong_mel_filters(at: int, model_file: Path) -> None:
    with model_file.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<i", 2**30))
    assert "mel filters of" in refusal(model_file)


def test_check_refuses_a_mel_filter_that_is_not_finite(model_file: Path) -> None:
    with model_file.open("r+b") as file:
        file.seek(56 + 4 * 777)
        file.write(np.float32(np.nan).tobytes())
    assert "not finite" in refusal(model_file)


@pytest.mark.parametrize("count", [-1, 0, 50255, 51866, 2**31 - 1])
def test_check_refuses_a_wrong_vocabulary_size(count: int, model_file: Path) -> None:
    with model_file.open("r+b") as file:
        file.seek(56 + 4 * 80 * 201)
        file.write(struct.pack("<i", count))
    assert f"a vocabulary of {count} tokens" in refusal(model_file)


def test_check_refuses_a_vocabulary_without_a_space(tmp_path: Path, files: Any) -> None:
    path = tmp_path / "model.bin"
    files.write_model(path, files.Shape(tokens=(b"ab",) * 50257))
    assert "no token for a space" in refusal(path)


def test_check_refuses_missing_doubled_and_unknown_tensors(tmp_path: Path, files: Any) -> None:
    tensors = files.tensor_list(files.Shape())
    path = tmp_path / "model.bin"
    files.write_model(path, tensors=tensors[1:])
    assert "1 tensors are missing" in refusal(path)
    files.write_model(path, tensors=[*tensors[1:], tensors[1]])  # as many as there should be
    assert "comes twice" in refusal(path)
    files.write_model(path, tensors=[*tensors, ("encoder.blocks.7.mlp_ln.bias", (64,), False)])
    assert "is unknown" in refusal(path)


def test_check_refuses_a_tensor_of_another_shape_or_type(tmp_path: Path, files: Any) -> None:
    tensors = files.tensor_list(files.Shape())
    path = tmp_path / "model.bin"
    index = next(i for i, t in enumerate(tensors) if t[0] == "encoder.blocks.0.mlp.0.weight")
    name, (rows, columns), _ = tensors[index]
    files.write_model(path, tensors=[*tensors[:index], (name, (columns, rows), True), *tensors[index + 1 :]])
    assert "is 64 × 256 instead of 256 × 64" in refusal(path)
    files.write_model(path, tensors=[*tensors[:index], (name, (rows, columns), False), *tensors[index + 1 :]])
    assert "has type 0 instead of 1 (f16)" in refusal(path)


def test_check_refuses_an_f32_model_with_which_whisper_cpp_aborts(tmp_path: Path, files: Any) -> None:
    path = tmp_path / "model.bin"
    files.write_model(path, files.Shape(ftype=0))
    assert "all of its weights are f32" in refusal(path)


def test_check_refuses_rows_that_are_no_whole_number_of_blocks(tmp_path: Path, files: Any) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(files.head_bytes(files.Shape(ftype=2012)))
    assert "rows of 64 values cannot be stored as q4_k" in refusal(path)


# --- the catalogue --------------------------------------------------------------------------------

ARCHITECTURE = {"tiny": (6, 4), "base": (8, 6), "small": (12, 12), "medium": (16, 24), "large": (20, 32)}
FTYPE = {"f16": 1, "bf16": 24, "q8_0": 2007, "q5_0": 2008, "q5_1": 2009}


@pytest.mark.parametrize("entry", catalogue.CATALOGUE.values(), ids=lambda entry: entry.name)
def test_catalogue_sizes_are_those_of_the_format(entry: catalogue.Entry, tmp_path: Path, files: Any) -> None:
    heads, layers = ARCHITECTURE[entry.name.replace(".", "-").split("-")[0]]
    v3 = "v3" in entry.name
    english = entry.languages == "en"
    # 307057 bytes are the texts of the multilingual vocabulary, 320827 those of the English one.
    texts = [b""] * 50257
    texts[: 3209 if english else 3071] = [b"x" * 100] * (3209 if english else 3071)
    texts[0] = b"x" * (26 if english else 56)
    texts[-1] = b" "
    shape = files.Shape(
        n_vocab=51864 if english else 51866 if v3 else 51865,
        n_audio_state=64 * heads,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_text_state=64 * heads,
        n_text_head=heads,
        n_text_layer=4 if "turbo" in entry.name else layers,
        n_mels=128 if v3 else 80,
        ftype=FTYPE[entry.kind],
        tokens=tuple(texts),
    )
    path = tmp_path / entry.file
    files.write_model(path, shape)  # a hole: it takes no room on the disk
    info = ggml.check(path)
    assert info.size_bytes == entry.size_bytes
    assert info.ftype == entry.kind
    assert info.multilingual == (not english)


def test_catalogue_hashes_are_distinct_and_well_formed() -> None:
    hashes = [entry.sha256 for entry in catalogue.CATALOGUE.values()]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 64 and int(h, 16) for h in hashes)


def test_find_suggests_close_names() -> None:
    assert catalogue.find("base").file == "ggml-base.bin"
    with pytest.raises(ModelUnavailableError, match=r"did you mean .*large-v3-turbo"):
        catalogue.find("large-v3-trubo")
    with pytest.raises(ModelUnavailableError, match="no such model; `transcriber models list`"):
        catalogue.find("xyzzy")
