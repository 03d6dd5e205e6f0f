"""Times in words: how long something took, and when it was."""

from __future__ import annotations

from datetime import datetime, timezone

from mlxtune.report.words import Words


def duration(seconds: float, say: Words) -> str:
    """Seconds as a person reads them: the two largest of hours, minutes and seconds."""
    whole = round(seconds)
    if whole < 60:
        return say("time.seconds", seconds=seconds)
    if whole < 3600:
        return say("time.minutes", minutes=whole // 60, seconds=whole % 60)
    return say("time.hours", hours=whole // 3600, minutes=whole % 3600 // 60)


def moment(text: str) -> str:
    """A time in ISO 8601 as run.json has it, to the minute and in UTC; any other text as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
