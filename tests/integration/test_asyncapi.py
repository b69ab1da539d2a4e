"""The published document: well-formed, and its examples are what it says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from transcriber.service import wire


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    for reference in references(asyncapi):
        node = asyncapi
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_schemas_are_valid(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    for schema in asyncapi["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)


def test_subjects_are_those_of_the_code(asyncapi: dict[str, Any]) -> None:
    addresses = {name: channel["address"] for name, channel in asyncapi["channels"].items()}
    assert addresses.pop("audio") == wire.AUDIO_SUBJECT.replace("*", "{stream}")
    assert addresses == {
        kind: wire.transcript_subject("{stream}", kind) for kind in ("final", "gap", "end", "error")
    }


def test_limits_are_those_of_the_code(asyncapi: dict[str, Any]) -> None:
    headers = asyncapi["components"]["schemas"]["ChunkHeaders"]["properties"]
    assert set(headers) == set(wire._HEADERS.values())
    assert headers["Encoding"]["enum"] == list(wire.ENCODINGS)
    assert [int(rate) for rate in headers["Sample-Rate"]["enum"]] == list(wire.SAMPLE_RATES)
    assert asyncapi["components"]["schemas"]["Version"]["const"] == wire.VERSION


def test_examples_hold_to_their_schemas(
    asyncapi: dict[str, Any], validate: Callable[[str, Any], None]
) -> None:
    messages = asyncapi["components"]["messages"]
    assert len(messages) == 5
    for name, message in messages.items():
        assert message["examples"]
        for example in message["examples"]:
            if name == "chunk":
                validate("ChunkHeaders", example["headers"])
                lines = "".join(f"{key}: {value}\r\n" for key, value in example["headers"].items())
                block = f"NATS/1.0\r\n{lines}\r\n".encode()
                wire.parse("audio.demo", block, b"", max_chunk_bytes=1, languages=("en",))
            else:
                validate(name.capitalize(), example["payload"])


def test_a_wrong_event_does_not_pass(asyncapi: dict[str, Any], validate: Callable[[str, Any], None]) -> None:
    good = asyncapi["components"]["messages"]["gap"]["examples"][0]["payload"]
    for wrong in ({"reason": "mood"}, {"version": 2}, {"duration_ms": -1}, {"extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            validate("Gap", {**good, **wrong})


def test_every_error_code_is_in_the_document(asyncapi: dict[str, Any]) -> None:
    from transcriber.service import daemon

    raised: set[str] = set()
    for module in (wire, daemon):
        raised |= set(re.findall(r'ProtocolError\(\s*"(\w+)"', inspect.getsource(module)))
    raised |= {"bad_sample_rate", "bad_seq"}  # handed to _unsigned
    raised -= {"bad_stream"}  # nowhere to answer
    documented = set(asyncapi["components"]["schemas"]["Error"]["properties"]["code"]["enum"])
    assert raised | {"inference_error"} == documented
