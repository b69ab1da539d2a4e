"""The NATS service: audio chunks in, transcripts out. All it does with audio is the library's work."""
