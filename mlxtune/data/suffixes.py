"""The kinds of file that rows are read from, by their suffixes. Reads none."""

from __future__ import annotations

JSON_LINES = (".jsonl", ".ndjson")
JSON = ".json"
CSV = ".csv"
PARQUET = ".parquet"
SUFFIXES = (*JSON_LINES, JSON, CSV, PARQUET)
