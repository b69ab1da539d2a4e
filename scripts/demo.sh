#!/usr/bin/env bash
# Live captions of real speech on this machine: the daemon with a nats-server of its own, a listener, and a publisher
# that plays a recording in real time. Ends by itself; exits 0 if the captions hold what was said.
# Needs the venv's programs on the PATH (make demo sees to it). SAMPLE and WHISPER_MODEL_PATH may be set.
set -euo pipefail
cd "$(dirname "$0")/.."

sample=${SAMPLE:-vendor/whisper.cpp/tree/samples/jfk.mp3}
work=$(mktemp -d)
daemon= listener=

finish() {
    status=$?
    trap - EXIT
    for pid in $listener $daemon; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Read lines from a file descriptor until one begins with these words, and print that one.
line_from() {
    local line
    while IFS= read -r line <&"$1"; do
        case $line in "$2"*) printf '%s\n' "$line" && return ;; esac
    done
    return 1
}

mkfifo "$work/daemon" "$work/listener" "$work/said"
transcriber-daemon --embedded-nats --grace-ms 60000 --log-level warning >"$work/daemon" &
daemon=$!
exec 3<"$work/daemon"
ready=$(line_from 3 "transcriber-daemon: ready") || { echo "demo: the daemon did not start" >&2; exit 1; }
printf '%s\n' "$ready"
NATS_URL=$(sed -n 's/.*ready on \([^ ]*\).*/\1/p' <<<"$ready")
export NATS_URL

tee "$work/captions" <"$work/said" &
tee=$!
transcriber listen demo --until-end --timeout 600 >"$work/said" 2>"$work/listener" &
listener=$!
exec 4<"$work/listener"
line_from 4 "listening" >/dev/null || { echo "demo: the listener did not start" >&2; exit 1; }

echo "demo: $sample, 48 kHz stereo, in real time"
transcriber publish "$sample" --stream demo --realtime --sample-rate 48000 --channels 2 --encoding s16le
wait "$listener" "$tee"
listener=
kill -TERM "$daemon"
cat <&3
wait "$daemon"
daemon=
if [ -z "${SAMPLE:-}" ] && ! grep -qi country "$work/captions"; then
    echo "demo: the captions do not hold what was said" >&2
    exit 1
fi
