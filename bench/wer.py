"""Word error rate on recorded speech, through the code path of `transcriber transcribe`.

    python bench/wer.py --speech ../shared/speech --category read --max-seconds 12

The folder holds a manifest.jsonl, one object a clip: id, file, language, kind, category, duration_s, text.
Reference and hypothesis go through the English normaliser of the Whisper paper (package whisper-normalizer);
WER is (substitutions + deletions + insertions) / words over all clips together, counted by jiwer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import jiwer
from rich.console import Console
from rich.progress import track
from whisper_normalizer.english import EnglishTextNormalizer  # type: ignore[import-untyped]

from transcriber import Model, Options, models, transcribe


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--speech", type=click.Path(file_okay=False, path_type=Path), default="../shared/speech")
@click.option("--category", default="read", show_default=True)
@click.option("--max-seconds", type=float, default=12.0, show_default=True)
@click.option("--model", default="base", show_default=True)
@click.option("--language", default="en", show_default=True, help="Language given to the model, or auto.")
@click.option("--threads", type=int, default=0, help="0 takes the engine's default.")
@click.option("--vad", is_flag=True)
@click.option("--timestamps/--no-timestamps", default=True, show_default=True)
@click.option("--worst", default=8, show_default=True, help="How many of the worst clips to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything, every clip included.")
def main(
    speech: Path, category: str, max_seconds: float, model: str, language: str, threads: int, vad: bool,
    timestamps: bool, worst: int, as_json: bool,
) -> None:  # fmt: skip
    if not (speech / "manifest.jsonl").is_file():
        raise click.UsageError(
            f"{speech}/manifest.jsonl is absent: name the folder of recordings with --speech"
        )
    manifest = [json.loads(line) for line in (speech / "manifest.jsonl").read_text().splitlines()]
    clips = [
        clip
        for clip in manifest
        if clip["kind"] == "speech"
        and clip["language"] == "en"
        and clip["category"] == category
        and clip["duration_s"] <= max_seconds
    ]
    if not clips:
        raise click.UsageError(f"no English clips of category {category} up to {max_seconds} s in {speech}")
    normalize = EnglishTextNormalizer()
    options = Options(language=language, threads=threads, timestamps=timestamps)
    rows: list[dict[str, Any]] = []
    started, started_cpu = time.perf_counter(), time.process_time()
    with Model(models.resolve(model)) as loaded, loaded.session(threads=threads) as session:
        for clip in track(clips, console=Console(stderr=True), disable=not sys.stderr.isatty()):
            result = transcribe(speech / clip["file"], options=options, vad=vad, session=session)
            reference, hypothesis = normalize(clip["text"]), normalize(result.text)
            counts = jiwer.process_words(reference, hypothesis)
            errors = counts.substitutions + counts.deletions + counts.insertions
            rows.append({"id": clip["id"], "errors": errors, "said": reference, "heard": hypothesis})
        n_threads = threads or session.threads
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    total = jiwer.process_words([row["said"] for row in rows], [row["heard"] for row in rows])
    audio_s = sum(clip["duration_s"] for clip in clips)
    report = {
        "model": model,
        "language": language,
        "timestamps": timestamps,
        "vad": vad,
        "threads": n_threads,
        "category": category,
        "max_seconds": max_seconds,
        "n_clips": len(clips),
        "audio_s": round(audio_s, 1),
        "n_words": total.hits + total.substitutions + total.deletions,
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "wer_percent": round(100 * total.wer, 2),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "clips": rows,
    }
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=1))
        return
    for row in sorted(rows, key=lambda row: -row["errors"])[:worst]:
        click.echo(f"{row['errors']:3} {row['id']}\n    said  {row['said']}\n    heard {row['heard']}")
    click.echo(
        f"WER {report['wer_percent']} %: {total.substitutions} S, {total.deletions} D, {total.insertions} I "
        f"of {report['n_words']} words in {len(clips)} clips, {audio_s:.0f} s; "
        f"{model}, {n_threads} threads, {wall_s:.0f} s ({cpu_s:.0f} s CPU)"
    )


if __name__ == "__main__":
    main()
