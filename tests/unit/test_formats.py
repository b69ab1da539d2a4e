"""Output formats: what is written can be read back by a reader of that format, whatever the text is."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber.formats import FORMATS, render
from transcriber.result import Segment, Transcript, Word

NAN = float("nan")
Cue = tuple[int, int, str]


def transcript(*cues: Cue) -> Transcript:
    segments = tuple(Segment(start, end, text, -0.25, 0.01) for start, end, text in cues)
    return Transcript("".join(s.text for s in segments).strip(), "en", NAN, 5000, segments)


EMPTY = transcript()
ORDINARY = transcript((0, 1500, " And so,"), (3_723_004, 3_725_000, " my fellow Americans."))

nasty = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.text(alphabet=st.sampled_from(list(" \t\r\n-><&;ab1:\u2028\x0b\x1c\x85"))),
    st.sampled_from(
        ["-->", "a --> b", "1\n00:00:00,000 --> 00:00:01,000\nx", "\n\n\n", "&lt;", "<i>", "WEBVTT", "NOTE x"]
    ),
)
cues = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), nasty).map(lambda c: (c[0], c[0] + c[1], c[2]))
)


def visible(text: str) -> str:
    """Return what a reader may rely on: words and the order of them."""
    return " ".join(text.split())


def parse_ms(clock: str, point: str) -> int:
    match = re.fullmatch(rf"(\d{{2,}}):([0-5]\d):([0-5]\d){re.escape(point)}(\d{{3}})", clock)
    assert match, clock
    hours, minutes, seconds, ms = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


def parse_blocks(text: str) -> list[list[str]]:
    """Split into blocks at blank lines, with only the line ends that both subtitle formats know."""
    blocks: list[list[str]] = [[]]
    for line in re.split(r"\r\n|\r|\n", text):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def parse_times(line: str, point: str) -> tuple[int, int]:
    start, arrow, end = line.split(" ")
    assert arrow == "-->"
    return parse_ms(start, point), parse_ms(end, point)


def test_srt_is_as_players_expect() -> None:
    assert render(ORDINARY, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nAnd so,\n\n"
        "2\n01:02:03,004 --> 01:02:05,000\nmy fellow Americans.\n\n"
    )  # fmt: skip


def test_vtt_is_as_browsers_expect() -> None:
    assert render(ORDINARY, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nAnd so,\n\n"
        "01:02:03.004 --> 01:02:05.000\nmy fellow Americans.\n"
    )


def test_txt_is_a_line_per_segment() -> None:
    assert render(ORDINARY, "txt") == "And so,\nmy fellow Americans.\n"


def test_tsv_has_a_header_and_milliseconds() -> None:
    assert render(ORDINARY, "tsv") == (
        "start_ms\tend_ms\ttext\n0\t1500\tAnd so,\n3723004\t3725000\tmy fellow Americans.\n"
    )


def test_json_has_every_documented_field() -> None:
    words = (Word(0, 400, " Oh", 0.123456), Word(400, 900, " no", NAN))
    segment = Segment(0, 900, " Oh no", -0.5, float("-inf"), words)
    document = json.loads(
        render(Transcript(" Oh no", "en", 0.987654, 1000, (segment,)), "json", path="a.wav")
    )
    assert document == {
        "path": "a.wav",
        "duration_ms": 1000,
        "language": "en",
        "language_probability": 0.9877,
        "text": "Oh no",
        "segments": [
            {
                "start_ms": 0,
                "end_ms": 900,
                "text": "Oh no",
                "avg_logprob": -0.5,
                "no_speech_prob": None,
                "words": [
                    {"start_ms": 0, "end_ms": 400, "text": " Oh", "probability": 0.1235},
                    {"start_ms": 400, "end_ms": 900, "text": " no", "probability": None},
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("form", "empty"),
    [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start_ms\tend_ms\ttext\n")],
)
def test_empty_transcript_is_an_empty_valid_document(form: str, empty: str) -> None:
    assert render(EMPTY, form) == empty


def test_empty_transcript_in_json() -> None:
    document = json.loads(render(EMPTY, "jsonl", path="a.wav"))
    assert document["text"] == ""
    assert document["segments"] == []
    assert document["language_probability"] is None
    assert "words" not in document


def test_subtitle_of_no_length_gets_one_millisecond() -> None:
    assert "00:00:02,000 --> 00:00:02,001" in render(transcript((2000, 2000, "x")), "srt")


@given(cues)
def test_srt_reads_back(items: list[Cue]) -> None:
    blocks = parse_blocks(render(transcript(*items), "srt"))
    expected = [
        (start, end, visible(text).replace("-->", "→")) for start, end, text in items if visible(text)
    ]
    assert [int(block[0]) for block in blocks] == list(range(1, len(expected) + 1))
    assert [(*parse_times(block[1], ","), visible("\n".join(block[2:]))) for block in blocks] == expected
    assert not any("-->" in line for block in blocks for line in block[2:])


@given(cues)
def test_vtt_reads_back(items: list[Cue]) -> None:
    text = render(transcript(*items), "vtt")
    head, *blocks = parse_blocks(text)
    assert head == ["WEBVTT"]
    found = []
    for times, *lines in blocks:
        assert not any("-->" in line or "<" in line for line in lines)
        plain = "\n".join(lines).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        found.append((*parse_times(times, "."), visible(plain)))
    assert found == [(start, end, visible(text)) for start, end, text in items if visible(text)]


@given(cues)
def test_tsv_reads_back(items: list[Cue]) -> None:
    text = render(transcript(*items), "tsv")
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["start_ms", "end_ms", "text"]
    assert [(int(start), int(end), text) for start, end, text in rows] == [
        (s, e, visible(t)) for s, e, t in items
    ]


@given(cues)
def test_json_and_jsonl_say_the_same_and_jsonl_in_one_line(items: list[Cue]) -> None:
    value = transcript(*items)
    line = render(value, "jsonl", path="ü.wav")
    assert line.count("\n") == 1
    assert json.loads(line) == json.loads(render(value, "json", path="ü.wav"))
    assert [(s["start_ms"], s["end_ms"], s["text"]) for s in json.loads(line)["segments"]] == [
        (start, end, text.strip()) for start, end, text in items
    ]


@given(cues, st.sampled_from(sorted(FORMATS)))
def test_every_format_is_utf_8_and_ends_its_last_line(items: list[Cue], form: str) -> None:
    text = render(transcript(*items), form)
    assert text.encode().decode() == text
    assert not text or text.endswith("\n")
