"""From the model's tokens to words with times."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transcriber.result import Word

__all__ = ["group_words"]

Token = tuple[bytes, int, int, float]

# Scripts written without spaces between words, as ranges of code points.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # 々〆〇
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x20000, 0x3FFFF),  # Han, further extensions
)


@dataclass(slots=True)
class _Piece:
    """Consecutive tokens that end where a character ends."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)

    @property
    def spaced(self) -> bool:
        return self.text[:1].isspace()

    @property
    def spoken(self) -> bool:
        """Whether there is anything in it that can be said; punctuation and lone accents cannot."""
        return any(character.isalnum() for character in self.text)


def group_words(tokens: Sequence[Token]) -> tuple[Word, ...]:
    """Group text tokens into words.

    Parameters
    ----------
    tokens : sequence of (raw bytes, start_ms, end_ms, probability)
        The text tokens of one segment, in order, without special tokens.

    Returns
    -------
    tuple of Word
        Their texts keep the leading spaces: joined, they are the text of all tokens, decoded as UTF-8. Times
        never run backwards and words do not overlap. The probability is the geometric mean of the tokens'.

    Notes
    -----
    A word starts at a token that begins with a space. In scripts without spaces, each group of tokens that
    makes whole characters is a word. What is only punctuation belongs to the word before, or, when it opens
    something (`` (``, `` $``), to the word that follows without a space. Bytes are joined before they are
    decoded, since a token may end inside a character; what never becomes a character turns into U+FFFD.
    """
    pieces = list(_pieces(tokens))
    groups: list[_Piece] = []
    for i, piece in enumerate(pieces):
        glued = i + 1 < len(pieces) and not pieces[i + 1].spaced
        if not groups or (groups[-1].spoken and _starts_word(piece, groups[-1].text[-1], glued=glued)):
            groups.append(_Piece())
        groups[-1].text += piece.text
        groups[-1].tokens += piece.tokens
    words: list[Word] = []
    end_ms = 0
    for group in groups:
        start_ms = max(end_ms, group.tokens[0][1])
        end_ms = max(start_ms, group.tokens[-1][2])
        words.append(
            Word(start_ms, end_ms, group.text, _geometric_mean([token[3] for token in group.tokens]))
        )
    return tuple(words)


def _pieces(tokens: Sequence[Token]) -> Iterator[_Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    piece = _Piece()
    for token in tokens:
        piece.tokens.append(token)
        piece.text += decoder.decode(token[0])
        unfinished = decoder.getstate()[0]
        if piece.text and not unfinished:
            yield piece
            piece = _Piece()
    piece.text += decoder.decode(b"", final=True)
    if piece.text:
        yield piece


def _starts_word(piece: _Piece, before: str, *, glued: bool) -> bool:
    """Whether `piece` starts a word after the character `before`; `glued`: no space before the next piece."""
    if piece.spaced:
        return piece.spoken or glued
    return piece.spoken and (_is_unspaced(before) or _is_unspaced(piece.text[0]))


def _is_unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _UNSPACED)


def _geometric_mean(probabilities: Sequence[float]) -> float:
    if min(probabilities) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, probabilities)) / len(probabilities))
