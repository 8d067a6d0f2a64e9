"""One script per figure that we claim; each prints one JSON object (`--json`). Peers run in a venv of their own."""
