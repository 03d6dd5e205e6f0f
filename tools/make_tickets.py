"""Writes the ticket data set: train.jsonl, valid.jsonl and test.jsonl of support tickets, their labels and replies.

Everything is drawn from the phrase banks in `tools/tickets/` by a fixed seed. The whole set has 24,022 rows; the first
rows of each of its files are the sample that is committed in `data/tickets`. `--check` fails when a file differs from
what this program writes.

    python tools/make_tickets.py --out /tmp/tickets      # the whole set
    python tools/make_tickets.py --sample --check        # is the committed sample what is written here?
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from tickets import commerce, parts, replies, technical  # noqa: E402

TYPES = {"Incident": 39.5, "Request": 29.2, "Problem": 20.7, "Change": 10.5}
PRIORITIES = {"high": 38.9, "medium": 40.6, "low": 20.4}
_EVEN = (100 - 28.8 - 18.8) / 6
QUEUES = {
    "Technical Support": 28.8, "Product Support": 18.8, "Customer Service": _EVEN, "IT Support": _EVEN, "Billing and Payments": _EVEN,
    "Returns and Exchanges": _EVEN, "Service Outages and Maintenance": _EVEN, "Sales and Pre-Sales": _EVEN,
}  # fmt: skip
BANKS = {
    "Technical Support": technical.TECHNICAL_SUPPORT,
    "Product Support": technical.PRODUCT_SUPPORT,
    "Customer Service": commerce.CUSTOMER_SERVICE,
    "IT Support": technical.IT_SUPPORT,
    "Billing and Payments": commerce.BILLING,
    "Returns and Exchanges": commerce.RETURNS,
    "Service Outages and Maintenance": technical.SERVICE_OUTAGES,
    "Sales and Pre-Sales": commerce.SALES,
}
NEIGHBOURS = (
    ("Technical Support", "Product Support", "IT Support", "Service Outages and Maintenance"),
    ("Customer Service", "Billing and Payments", "Returns and Exchanges", "Sales and Pre-Sales"),
)

# The share of rows whose text says one thing and whose label another, as where people label.
PRIORITY_NOISE, QUEUE_NOISE, TYPE_NOISE = 0.15, 0.08, 0.03
NEXT_TO = {"high": {"medium": 9, "low": 1}, "medium": {"high": 6, "low": 4}, "low": {"medium": 8, "high": 2}}
TYPE_SLIPS = {"Incident": "Problem", "Problem": "Incident", "Request": "Change", "Change": "Request"}
# The share of tickets that could go to any queue of their group, by group, and of those that hide how urgent they are.
SHARED = (0.4, 0.25)
UNTOLD_PRIORITY = 0.36
LEANING = {
    "Incident": 0.35,
    "Problem": 0.1,
    "Request": -0.25,
    "Change": -0.2,
}  # of the priority, in standard deviations

TYPES_BY_LETTER = ("Incident", "Problem", "Request", "Change")  # i, p, r and c in the phrase banks
TYPE_TAGS = {
    "Incident": ("Bug", "Disruption", "Crash", "Failure"),
    "Problem": ("Recurring", "Root Cause", "Bug"),
    "Request": ("Guidance", "Inquiry", "Feature Request"),
    "Change": ("Configuration", "Change Request", "Update"),
}
QUEUE_TAGS = {
    "Technical Support": ("IT", "Tech Support", "System"),
    "Product Support": ("Product", "Tech Support", "Feature"),
    "Customer Service": ("Customer Service", "Feedback", "Information"),
    "IT Support": ("IT", "Employee", "Access"),
    "Billing and Payments": ("Finance", "Accounting", "Customer"),
    "Returns and Exchanges": ("Logistics", "Delivery", "Customer"),
    "Service Outages and Maintenance": ("Outage", "IT", "Performance"),
    "Sales and Pre-Sales": ("Marketing", "Pricing", "Customer"),
}

MIN_WORDS, MAX_WORDS = 15, 50  # of a text
MIN_REPLY, MAX_REPLY = 20, 50
TOO_ALIKE = 0.65  # below the 0.7 from which on the project's cleaning calls two texts near-duplicates


@dataclass(frozen=True)
class Ticket:
    """One row.

    Attributes:
        meant: Type, queue and priority that the text was written for; the labels differ from them by the noise.
        wording: The patterns of the text: situation, detail (or none) and sign of urgency.
    """

    id: str
    text: str
    type: str
    queue: str
    priority: str
    tags: tuple[str, ...]
    response: str
    meant: tuple[str, str, str]
    wording: tuple[str, str, str]

    def line(self) -> str:
        """The row as it stands in a file."""
        row = {
            "id": self.id, "text": self.text, "type": self.type, "queue": self.queue, "priority": self.priority,
            "tags": list(self.tags), "response": self.response,
        }  # fmt: skip
        return json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Sizes:
    """Rows of each file."""

    train: int
    valid: int
    test: int


SAMPLE = Sizes(1_200, 200, 300)
WHOLE = Sizes(18_782, 1_000, 4_240)  # 19,782 to train on, of which 1,000 are held out to validate


@dataclass(frozen=True)
class Labels:
    """What a row is labelled as."""

    type: str
    queue: str
    priority: str


def make(sample: Sizes = SAMPLE, whole: Sizes | None = None) -> dict[str, list[Ticket]]:
    """File name -> its rows, the same on every call.

    Args:
        sample: The first rows of each file, drawn first, so that they do not depend on `whole`.
        whole: Rows of the files; without it, those of the sample.

    Raises:
        SystemExit: The phrase banks are too small for so many distinct rows.
    """
    writer = Writer("tickets")
    first = {"test": sample.test, "valid": sample.valid, "train": sample.train}
    files = {name: writer.tickets(name, labels(n, seed=f"sample {name}")) for name, n in first.items()}
    if whole:
        # What is labelled on top of the sample makes the quotas of the whole set exact.
        wanted = {"test": Counts.of(whole.test), "valid": Counts.of(whole.valid)}
        wanted["train"] = Counts.of(whole.train + whole.valid) - wanted["valid"]
        for name in first:
            rest = wanted[name] - Counts.of(first[name])
            files[name] += writer.tickets(name, labels(rest, seed=f"whole {name}"))
    return {f"{name}.jsonl": files[name] for name in ("train", "valid", "test")}


def make_rows(number: int, seed: int = 0) -> list[Ticket]:
    """Any number of tickets, for trials of speed: quickly drawn, and not kept apart as those of `make` are."""
    return Writer(f"rows {seed}", apart=False).tickets("train", labels(number, seed=f"rows {seed}"))


@dataclass(frozen=True)
class Counts:
    """Rows by label, for each of the three label fields alone."""

    type: Mapping[str, int]
    queue: Mapping[str, int]
    priority: Mapping[str, int]

    @classmethod
    def of(cls, number: int) -> Counts:
        """The quotas of this many rows: largest remainders get the rows that rounding down leaves."""
        return cls(_quota(TYPES, number), _quota(QUEUES, number), _quota(PRIORITIES, number))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            {name: n - other.type[name] for name, n in self.type.items()},
            {name: n - other.queue[name] for name, n in self.queue.items()},
            {name: n - other.priority[name] for name, n in self.priority.items()},
        )


def _quota(shares: Mapping[str, float], number: int) -> dict[str, int]:
    exact = {name: number * share / sum(shares.values()) for name, share in shares.items()}
    quota = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quota[name] - exact[name])
    for name in by_remainder[: number - sum(quota.values())]:
        quota[name] += 1
    return quota


def labels(counts: int | Counts, seed: str) -> list[Labels]:
    """The labels of rows in random order, to exact counts; what breaks leans to a higher priority than what is wished."""
    counts = Counts.of(counts) if isinstance(counts, int) else counts
    rng = random.Random(seed)
    types = [name for name, n in counts.type.items() for _ in range(n)]
    queues = [name for name, n in counts.queue.items() for _ in range(n)]
    rng.shuffle(types)
    rng.shuffle(queues)
    urgency = [LEANING[name] + rng.gauss(0, 1) for name in types]
    ranked = [name for name in ("high", "medium", "low") for _ in range(counts.priority[name])]
    priorities = [""] * len(types)
    for row, priority in zip(sorted(range(len(types)), key=lambda row: -urgency[row]), ranked, strict=True):
        priorities[row] = priority
    return [Labels(*found) for found in zip(types, queues, priorities, strict=True)]


@dataclass(frozen=True)
class Situation:
    """One sentence pattern, the topic it belongs to and what the topic's things are."""

    pattern: str
    topic_tags: tuple[str, ...]
    type_tag: str
    things: tuple[str, ...]
    asks: tuple[str, ...]


class Writer:
    """Writes tickets that are not near-duplicates of any it wrote before.

    Args:
        seed: Every choice is drawn from it, in a fixed order.
        apart: Whether texts are compared; without it only the patterns decide how alike they are.
    """

    def __init__(self, seed: str, apart: bool = True) -> None:
        self.rng = random.Random(seed)
        self.apart = apart
        self.written = 0
        self.slots = {name: values.split("|") for name, values in parts.SLOTS.items()}
        self.situations = {
            (queue, kind): found for queue, bank in BANKS.items() for kind, found in situations(bank).items()
        }
        self.shared = [situations(bank) for bank in (technical.SHARED, commerce.SHARED)]
        self.broken = [_lines(parts.BROKEN_DETAILS), _lines(parts.FAULT_DETAILS)]
        self.wanted = _lines(parts.WANTED_DETAILS)
        self.cues = {priority: _lines(block) for priority, block in parts.CUES.items()}
        self.neutral = _lines(parts.NEUTRAL)
        self.turns: dict[tuple[str, str], Iterator[Situation]] = {}
        # Texts that share two of their three patterns could be near-duplicates, others cannot.
        self.sets_by: dict[tuple[str, ...], list[frozenset[str]]] = {}

    def tickets(self, file: str, wanted: Sequence[Labels]) -> list[Ticket]:
        """One ticket for each of these labels, in their order; ids count up over all calls.

        Raises:
            SystemExit: No text could be found that is unlike those written before.
        """
        return [self._ticket(file, row) for row in wanted]

    def _ticket(self, file: str, row: Labels) -> Ticket:
        meant = self._meant(row)
        for _ in range(200):
            ticket = self._written(row, meant)
            if MIN_WORDS <= len(ticket.text.split()) <= MAX_WORDS and (not self.apart or self._is_new(ticket)):
                self.written += 1
                return replace(ticket, id=f"T{self.written:06d}")
        raise SystemExit(f"the phrase bank is too small for one more distinct text of {file}: {meant}")

    def _meant(self, row: Labels) -> Labels:
        """What the text is written for: mostly what it will be labelled as."""
        rng = self.rng
        if rng.random() < TYPE_NOISE:
            row = replace(row, type=TYPE_SLIPS[row.type])
        if rng.random() < QUEUE_NOISE:
            near = [queue for queue in NEIGHBOURS[_group(row.queue)] if queue != row.queue]
            others = near if rng.random() < 0.75 else [queue for queue in QUEUES if queue != row.queue]
            row = replace(row, queue=rng.choice(others))
        if rng.random() < PRIORITY_NOISE:
            row = replace(row, priority=self._weighted(NEXT_TO[row.priority]))
        return row

    def _weighted(self, weights: Mapping[str, int]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def _written(self, row: Labels, meant: Labels) -> Ticket:
        rng = self.rng
        situation = self._situation(meant)
        used: set[str] = set()
        thing = self._filled(rng.choice(situation.things), used)
        says = _articles(self._filled(situation.pattern.replace("{x}", thing), used))
        details = self.broken[_group(meant.queue)] if _is_broken(meant.type) else self.wanted
        detail = rng.choice(details) if rng.random() < 0.87 else ""
        untold = rng.random() < UNTOLD_PRIORITY
        cue = rng.choice(self.neutral if untold else self.cues[meant.priority])
        sentences = [says, self._filled(detail, used), self._filled(cue, used)]
        order = rng.choices([(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1)], [60, 15, 10, 0 if untold else 15])[0]
        body = " ".join(sentences[at] for at in order if sentences[at])
        if rng.random() < 0.25:
            body = f"{rng.choice(parts.OPENINGS)} {body}"
        text = self._finished(body)
        tags = self._tags(situation, meant)
        response = self._reply(situation, thing, meant)
        wording = (situation.pattern, detail, cue)
        return Ticket(
            "",
            text,
            row.type,
            row.queue,
            row.priority,
            tags,
            response,
            (meant.type, meant.queue, meant.priority),
            wording,
        )

    def _situation(self, meant: Labels) -> Situation:
        """Every situation of a queue and type in turn, in an order that is drawn anew each time round."""
        group = _group(meant.queue)
        if self.rng.random() < SHARED[group]:
            name, pool = f"shared {group}", self.shared[group][meant.type]
        else:
            name, pool = meant.queue, self.situations[meant.queue, meant.type]
        key = (name, meant.type)
        return next(self.turns.setdefault(key, self._in_turn(pool)))

    def _in_turn(self, pool: Sequence[Situation]) -> Iterator[Situation]:
        while True:
            yield from self.rng.sample(pool, len(pool))

    def _filled(self, pattern: str, used: set[str]) -> str:
        """The pattern with its slots filled, no value twice in one text."""

        def fill(slot: re.Match[str]) -> str:
            while True:
                value = self._value(slot[1])
                if value not in used:
                    used.add(value)
                    return value

        return re.sub(r"{(\w+)}", fill, pattern)

    def _value(self, slot: str) -> str:
        rng = self.rng
        if slot in self.slots:
            return rng.choice(self.slots[slot])
        if slot == "n":
            return str(rng.randint(2, 60))
        if slot == "version":
            return f"{rng.randint(1, 14)}.{rng.randint(0, 19)}.{rng.randint(0, 9)}"
        if slot == "time":
            return f"{rng.randint(6, 19)}:{rng.randrange(0, 60, 5):02d}"
        if slot == "amount":
            return rng.choice(["${}", "{} euros", "{} pounds"]).format(f"{rng.randint(3, 980) * 10:,}")
        if slot == "order":
            return str(rng.randint(10_000, 99_999))
        if slot == "model":
            return f"{rng.choice('ACDGKLMPRTVX')}{rng.randint(10, 990)}"
        if slot == "code":
            return self._filled(rng.choice(parts.CODES), set())
        if slot[0] == "h":
            return f"{rng.randrange(16 ** int(slot[1:])):0{slot[1:]}X}"
        return "".join(rng.choices("0123456789", k=int(slot[1:])))

    def _finished(self, text: str) -> str:
        """Sentences begin with capitals; one text in eight is written carelessly."""
        text = re.sub(r"(^|[.?!:] |, (?=[A-Z]))([a-z])", lambda start: start[1] + start[2].upper(), text)
        style = self.rng.random()
        if style < 0.05:
            return text.lower().rstrip(".")
        if style < 0.12:
            words = text.split(" ")
            long = [at for at, word in enumerate(words) if len(word) > 5 and word.isalpha()]
            if long:
                at = self.rng.choice(long)
                cut = self.rng.randrange(1, len(words[at]) - 2)
                words[at] = words[at][:cut] + words[at][cut + 1] + words[at][cut] + words[at][cut + 2 :]
            return " ".join(words)
        return text

    def _tags(self, situation: Situation, meant: Labels) -> tuple[str, ...]:
        """The topic's first, the type's, then the topic's second and one of the queue's, each now and then."""
        rng = self.rng
        tags = [situation.topic_tags[0], situation.type_tag]
        if rng.random() < 0.6:
            tags += situation.topic_tags[1:]
        if rng.random() < 0.5 or len(set(tags)) < 2:
            tags.append(rng.choice(QUEUE_TAGS[meant.queue]))
        return tuple(dict.fromkeys(tags))[:4]

    def _reply(self, situation: Situation, thing: str, meant: Labels) -> str:
        while True:
            reply = _articles(self._reply_once(situation, thing, meant))
            if MIN_REPLY <= len(reply.split()) <= MAX_REPLY:
                return reply

    def _reply_once(self, situation: Situation, thing: str, meant: Labels) -> str:
        rng = self.rng
        banks = {
            "open": replies.APOLOGY if _is_broken(meant.type) and rng.random() < 0.75 else replies.THANKS,
            "act": replies.ACT[meant.type],
            "ask": replies.ASK,
            "call": replies.CALL if rng.random() < 0.8 else replies.TALK,
            "close": replies.CLOSING,
        }
        order = rng.choice(replies.ORDERS).split()
        said = [rng.choice(_lines(banks[part])) for part in order]
        if meant.priority == "high" and rng.random() < 0.35:
            said.insert(rng.randint(0, 1), rng.choice(_lines(replies.HASTE)))
        address = rng.random()
        if address < 0.85:
            greeting = rng.choice((replies.ADDRESS if address < 0.45 else replies.PLAIN).split("|"))
            if greeting.endswith(",") and not said[0].startswith("I "):
                said[0] = said[0][0].lower() + said[0][1:]
            said.insert(0, greeting)
        return " ".join(said).replace("{x}", thing).replace("{ask}", rng.choice(situation.asks))

    def _is_new(self, ticket: Ticket) -> bool:
        """Whether no earlier text is too much like this one; remembers it if so."""
        mine = _shingles(ticket.text)
        says, detail, cue = ticket.wording
        keys = [("says", says), ("rest", detail, cue)]
        for key in keys:
            for other in self.sets_by.get(key, ()):
                shared = len(mine & other)
                if shared >= TOO_ALIKE * (len(mine) + len(other) - shared):
                    return False
        for key in keys:
            self.sets_by.setdefault(key, []).append(mine)
        return True


def situations(bank: str) -> dict[str, list[Situation]]:
    """The situations of one queue's bank, by ticket type."""
    kinds = dict(zip("iprc", TYPES_BY_LETTER, strict=True))
    found: dict[str, list[Situation]] = {kind: [] for kind in TYPES_BY_LETTER}
    for line in _lines(bank):
        if line.startswith("# "):
            tags, things, asks = (part.strip() for part in line[2:].split("|"))
            continue
        letters, pattern = line.split(": ", 1)
        for kind in (kinds[letter] for letter in letters):
            type_tags = TYPE_TAGS[kind]
            found[kind].append(
                Situation(
                    pattern=pattern,
                    topic_tags=tuple(tags.split(", ")),
                    type_tag=type_tags[len(found[kind]) % len(type_tags)],
                    things=tuple(things.split("; ")),
                    asks=tuple(asks.split("; ")),
                )
            )
    return found


def _group(queue: str) -> int:
    """Which of NEIGHBOURS the queue is in."""
    return 0 if queue in NEIGHBOURS[0] else 1


def _is_broken(kind: str) -> bool:
    return kind in ("Incident", "Problem")


def _articles(text: str) -> str:
    """An 'a' before a vowel is 'an'; 'a user' stays."""
    return re.sub(r"\b([Aa]) (?=[aeio]|u(?!s|ni))", r"\1n ", text)


def _shingles(text: str) -> frozenset[str]:
    """As `mlxtune.data.near` has them of English: each three letters or digits in a row, and the end of the text."""
    letters = re.sub(r"[^a-z0-9]", "", text.lower()) + "\0\0"
    return frozenset(letters[at : at + 3] for at in range(len(letters) - 2))


def _lines(block: str) -> list[str]:
    return [line for line in block.strip().splitlines() if line]


def summary(files: Mapping[str, Iterable[Ticket]]) -> str:
    """Rows and label counts of each file, a line each."""
    lines = []
    for name, tickets in files.items():
        tickets = list(tickets)
        lines.append(f"{name}: {len(tickets):,} rows")
        for field in ("type", "queue", "priority"):
            counts = Counter(getattr(ticket, field) for ticket in tickets)
            lines.append(f"  {field}: " + ", ".join(f"{label} {n:,}" for label, n in counts.most_common()))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files; 1 when a file is stale, or cannot be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the files; with --sample, data/tickets unless named")
    parser.add_argument(
        "--sample", action="store_true", help="the committed 1,200 / 200 / 300 rows instead of the whole set"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not what it should be")
    options = parser.parse_args(arguments)
    if not (options.out or options.sample):
        parser.error("say where the whole set goes: --out DIR; or --sample for the committed files in data/tickets")
    out: Path = options.out or ROOT / "data" / "tickets"
    if out.is_file():
        parser.error(f"--out {out} is a file; it takes the folder for train.jsonl, valid.jsonl and test.jsonl")
    files = make() if options.sample else make(whole=WHOLE)
    contents = {name: "".join(ticket.line() for ticket in tickets).encode() for name, tickets in files.items()}
    if options.check:
        stale = [str(out / name) for name, data in contents.items() if not _is(out / name, data)]
        if stale:
            print(f"not what tools/make_tickets.py writes: {', '.join(stale)}", file=sys.stderr)
            return 1
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, data in contents.items():
                (out / name).write_bytes(data)
        except OSError as error:
            print(f"--out {out}: cannot be written: {error.strerror}; name another folder", file=sys.stderr)
            return 1
    print(summary(files))
    return 0


def _is(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
