"""Words from tokens: no text is lost, times run forward, punctuation and scripts are respected."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber.words import group_words


def texts(*pieces: str | bytes) -> list[str]:
    """Return the words of tokens with these texts."""
    raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    return [word.text for word in group_words([(piece, 0, 0, 1.0) for piece in raw])]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], []),
        ([" And", " so", ",", " my", " fellow"], [" And", " so,", " my", " fellow"]),
        (["And", " so"], ["And", " so"]),
        ([" Amer", "icans", "."], [" Americans."]),
        ([" it", "'s", " 5", ".", "0", "%"], [" it's", " 5.0%"]),
        ([" wait", " ...", " what", "?", "!"], [" wait ...", " what?!"]),
        ([" he", " (", "the", " man", ")", " said"], [" he", " (the", " man)", " said"]),
        ([" costs", " $", "5"], [" costs", " $5"]),
        ([" say", ' "', "Hi", '"', " now"], [" say", ' "Hi"', " now"]),
        ([" ¿", "Qu", "é", "?"], [" ¿Qué?"]),
        ([" -", " Yes", "."], [" - Yes."]),
        ([" ♪", "♪"], [" ♪♪"]),
        (["私", "は", "日本", "人", "です", "。"], ["私", "は", "日本", "人", "です。"]),
        ([" 私", "は", " OK"], [" 私", "は", " OK"]),
        (["我", "用", "iPh", "one", "。"], ["我", "用", "iPhone。"]),
        (["ที", "่", "นี", "่"], ["ที่", "นี่"]),  # the tone mark alone is no word
        (["한국", " 사람"], ["한국", " 사람"]),
    ],
)
def test_words_are_cut_where_a_reader_would(tokens: list[str], words: list[str]) -> None:
    assert texts(*tokens) == words


def test_character_split_over_tokens_is_whole_again() -> None:
    raw = "日本".encode()
    assert texts(raw[:1], raw[1:4], raw[4:]) == ["日本"]  # no token boundary falls between the characters
    assert texts(raw[:2], raw[2:3], raw[3:]) == ["日", "本"]
    assert texts(b" caf", "é".encode()[:1], "é".encode()[1:], b" bar") == [" café", " bar"]


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    assert texts(b" a", b"\xff", b" b", b"\xe6\x97") == [" a�", " b�"]


def test_times_and_probability_are_of_the_words_tokens() -> None:
    words = group_words(
        [(b" Amer", 100, 300, 0.9), (b"icans", 300, 700, 0.4), (b".", 700, 750, 0.6), (b" so", 800, 900, 0.0)]
    )
    assert [(word.start_ms, word.end_ms) for word in words] == [(100, 750), (800, 900)]
    assert words[0].probability == pytest.approx((0.9 * 0.4 * 0.6) ** (1 / 3))
    assert words[1].probability == 0.0


tokens = st.tuples(
    st.one_of(
        st.binary(max_size=6),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4).map(str.encode),
        st.sampled_from([" a", "b", ",", " (", "日", "本", " ", "่"]).map(str.encode),
    ),
    st.integers(0, 30000),
    st.integers(0, 30000),
    st.floats(0, 1),
)


@given(st.lists(tokens, max_size=20))
def test_nothing_is_lost_and_time_runs_forward(items: list[tuple[bytes, int, int, float]]) -> None:
    words = group_words(items)
    text = b"".join(raw for raw, *_ in items).decode(errors="replace")
    assert "".join(word.text for word in words) == text
    clock = 0
    for word in words:
        assert clock <= word.start_ms <= word.end_ms
        clock = word.end_ms
        assert 0 <= word.probability <= 1 + 1e-12
        assert math.isfinite(word.probability)
        assert word.text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.data())
def test_any_cut_of_the_bytes_keeps_every_character(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert "".join(word.text for word in group_words([(piece, 0, 0, 0.5) for piece in pieces])) == text
