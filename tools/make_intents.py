"""Writes the intent data set: raw.jsonl, and train.jsonl and valid.jsonl, which are clean. test.jsonl is hand-written.

Everything is drawn from the phrase banks in `tools/intents/` by a fixed seed, so that the files can be checked in
and checked: `--check` fails when a file differs from what this program writes.

    python tools/make_intents.py
    python tools/make_intents.py --lang zh --out data/intent/zh --check
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from mlxtune.data.cleaning import Cleaned, clean_rows, is_garbled  # noqa: E402
from mlxtune.data.near import NearIndex, folded, jaccard, shingles  # noqa: E402
from mlxtune.data.rows import Row, read_rows  # noqa: E402
from mlxtune.recipe.sections import Clean  # noqa: E402

INTENTS = ("user_auth", "order_management", "payment", "inventory", "notification")
LABELS = (*INTENTS, "none")
LANGUAGES = ("en", "zh")

TRAIN, VALID = 1300, 160
DUPLICATES, EXACT = 427, 171  # of the duplicates, how many are exact
LOW_QUALITY = {"empty": 24, "too_short": 35, "garbled": 40, "unknown_label": 38}
PER_OPENING = 3
SURELY_FOUND = 0.85  # a pair this similar is missed less than once in a million
# Rows by how many intents they have, in train and in valid; 0 is none. 386 of 1,300 have several: 29.7%.
QUOTAS = {0: (170, 21), 1: (744, 92), 2: (296, 36), 3: (72, 9), 4: (18, 2)}


@dataclass(frozen=True)
class Sample:
    """One row: a text and its intents, in canonical order."""

    text: str
    intents: tuple[str, ...]

    def line(self) -> str:
        """The row as it stands in a file."""
        return json.dumps({"text": self.text, "intents": list(self.intents)}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class DataSet:
    """The rows of one language, and what cleaning did to make `train` of `raw`."""

    raw: tuple[Sample, ...]
    train: tuple[Sample, ...]
    valid: tuple[Sample, ...]
    cleaned: Cleaned

    def files(self) -> dict[str, str]:
        """File name -> content."""
        parts = {"raw": self.raw, "train": self.train, "valid": self.valid}
        return {f"{name}.jsonl": "".join(sample.line() for sample in samples) for name, samples in parts.items()}


def make(language: str) -> DataSet:
    """The data set of one language, the same on every call."""
    bank = importlib.import_module(f"intents.{language}")
    rng = random.Random(f"intents {language}")
    writer = Writer(bank, language, rng)
    test = [row.fields["text"] for row in read_rows(ROOT / "data" / "intent" / language / "test.jsonl")]
    train, valid = split(select(writer, test, language), rng)
    raw = spoiled(train, writer)
    cleaned = clean(raw, language)
    kept = tuple(Sample(row.fields["text"], tuple(row.fields["intents"])) for row in cleaned.rows)
    return DataSet(tuple(raw), kept, tuple(valid), cleaned)


def clean_settings(language: str) -> Clean:
    """What the rows were cleaned with."""
    bank = importlib.import_module(f"intents.{language}")
    return Clean(dedupe="near", min_chars=bank.MIN_CHARS, drop_garbled=True)


def clean(samples: Sequence[Sample], language: str) -> Cleaned:
    """The samples as `mlxtune data` would clean them out of raw.jsonl."""
    rows = [
        Row({"text": sample.text, "intents": list(sample.intents)}, "raw.jsonl", line)
        for line, sample in enumerate(samples, start=1)
    ]
    columns = {"intents": LABELS}
    return clean_rows(rows, text_column="text", label_columns=columns, settings=clean_settings(language))


def opening(text: str, language: str) -> str:
    """The first five words, or the first eight characters of Chinese, without case and punctuation."""
    if language == "zh":
        return folded(text)[:8]
    return " ".join(re.findall(r"[\w']+", text.casefold())[:5])


def select(writer: Writer, test: Sequence[str], language: str) -> dict[tuple[str, ...], list[Sample]]:
    """Samples by their intents, as many as QUOTAS ask: none near another or a test row, few that open alike."""
    wanted = _wanted()
    proposals = [sample for intents, number in wanted.items() for sample in writer.proposals(intents, 5 * number + 150)]
    texts = [*test, *(sample.text for sample in proposals)]
    index = NearIndex(texts)
    openings: Counter[str] = Counter()
    for position, text in enumerate(test):
        index.add(position)
        openings[opening(text, language)] = PER_OPENING
    chosen: dict[tuple[str, ...], list[Sample]] = {intents: [] for intents in wanted}
    for position, sample in enumerate(proposals, start=len(test)):
        start = opening(sample.text, language)
        full = len(chosen[sample.intents]) == wanted[sample.intents]
        if full or openings[start] >= PER_OPENING or any(True for _ in index.near(position)):
            continue
        if is_garbled(sample.text) or len(sample.text) < writer.bank.MIN_CHARS:
            raise SystemExit(f"a phrase of the bank would be dropped as low quality: {sample.text!r}")
        index.add(position)
        openings[start] += 1
        chosen[sample.intents].append(sample)
    short = {intents: wanted[intents] - len(found) for intents, found in chosen.items() if len(found) < wanted[intents]}
    if short:
        raise SystemExit(f"the phrase bank is too small, rows missing: {short}")
    return chosen


def _wanted() -> dict[tuple[str, ...], int]:
    """Rows for each set of intents: each size's quota, shared evenly among the sets of that size."""
    wanted = {}
    for size, quota in QUOTAS.items():
        groups = list(combinations(INTENTS, size)) if size else [("none",)]
        for number, intents in enumerate(groups):
            wanted[intents] = sum(quota) // len(groups) + (number < sum(quota) % len(groups))
    return wanted


def split(chosen: dict[tuple[str, ...], list[Sample]], rng: random.Random) -> tuple[list[Sample], list[Sample]]:
    """Train and valid; valid takes its quota of each size from every set of intents alike."""
    train: list[Sample] = []
    valid: list[Sample] = []
    for size, (_, n_valid) in QUOTAS.items():
        groups = [intents for intents in chosen if (0 if intents == ("none",) else len(intents)) == size]
        for intents in groups:
            rng.shuffle(chosen[intents])
        for turn in range(n_valid):
            valid.append(chosen[groups[turn % len(groups)]].pop())
        train += [sample for intents in groups for sample in chosen[intents]]
    rng.shuffle(train)
    rng.shuffle(valid)
    return train, valid


def spoiled(train: Sequence[Sample], writer: Writer) -> list[Sample]:
    """The rows with duplicates and low-quality rows among them; every duplicate comes after the row it repeats."""
    rng = writer.rng
    groups = [[sample] for sample in train]
    several = [group for group in groups if len(group[0].intents) > 1]
    one = [group for group in groups if len(group[0].intents) == 1]
    for number in range(DUPLICATES):
        group = rng.choice(one if rng.random() < 0.85 else several)
        if number < EXACT:
            repeat = rng.choice(["{}", "{}", "{} ", " {}", "{}\n"]).format(group[0].text)
        else:
            repeat = writer.varied(group[0])
        group.append(Sample(repeat, group[0].intents))
    low = [Sample(text, intents) for text, intents in writer.low_quality(train)]
    slots = [number for number, group in enumerate(groups) for _ in group] + [-1] * len(low)
    rng.shuffle(slots)
    waiting = [iter(group) for group in groups]
    bad = iter(low)
    return [next(bad) if slot < 0 else next(waiting[slot]) for slot in slots]


class Writer:
    """Writes samples from one phrase bank.

    Args:
        bank: A module of `tools/intents`.
        rng: Every choice is drawn from it, in a fixed order.
    """

    def __init__(self, bank: ModuleType, language: str, rng: random.Random) -> None:
        self.bank = bank
        self.language = language
        self.rng = rng
        self.slots = {name: values.split("|") for name, values in bank.SLOTS.items()}
        self.parts: dict[tuple[str, str], Iterator[str]] = {}
        for intent in INTENTS:
            says = _lines(bank.SAY[intent])
            asks = [say for say in says if self._is_question(say)]
            self.parts["do", intent] = self._turns(_lines(bank.DO[intent]))
            self.parts["when", intent] = self._turns(_lines(bank.WHEN[intent]))
            self.parts["ask", intent] = self._turns(asks)
            self.parts["say", intent] = self._turns([say for say in says if say not in asks])
        self.parts["say", "none"] = self._turns(_lines(bank.NONE_PATTERNS))
        frames = {2: bank.PAIRS, 3: bank.TRIPLES, 4: bank.QUADS}
        self.frames = {size: self._turns(_lines(block)) for size, block in frames.items()}
        self.openings = {
            "do": self._turns(_lines(bank.OPENINGS_DO)),
            "say": self._turns(_lines(bank.OPENINGS_SAY)),
        }
        self.whole: dict[tuple[str, ...], list[str]] = {}
        for intent, sentences in bank.SENTENCES.items():
            self.whole[(intent,)] = _lines(sentences)
        for line in _lines(bank.MULTI):
            letters, text = line.split(" | ", 1)
            labels = {bank.MULTI_LETTERS[letter] for letter in letters}
            self.whole.setdefault(tuple(intent for intent in INTENTS if intent in labels), []).append(text)

    def proposals(self, intents: tuple[str, ...], number: int) -> list[Sample]:
        """The whole sentences for these intents, then as many composed ones as `number` asks."""
        texts = list(self.whole.get(intents, []))
        if intents == ("none",):
            texts += [self._nothing() for _ in range(number)]
        elif len(intents) == 1:
            texts += [self._single(intents[0]) for _ in range(number)]
        else:
            texts += [self._combined(intents) for _ in range(number)]
        return [Sample(text, intents) for text in texts]

    def varied(self, sample: Sample) -> str:
        """The same row, written a little differently: case, punctuation, a filler word more."""
        ways = (self._with_filler, self._with_filler, self._with_other_case, self._with_other_punctuation)
        while True:
            text = self.rng.choice(ways)(sample.text)
            close = jaccard(shingles(text), shingles(sample.text)) >= SURELY_FOUND
            if close and text.strip() != sample.text:
                return text

    def low_quality(self, train: Sequence[Sample]) -> list[tuple[str, tuple[str, ...]]]:
        """Rows that cleaning drops, as many of each kind as LOW_QUALITY says."""
        rng = self.rng
        rows = []
        for kind, number in LOW_QUALITY.items():
            for _ in range(number):
                sample = rng.choice(train)
                intents = sample.intents
                if kind == "empty":
                    text = rng.choice(["", "", " ", "\n", "\u3000"])
                elif kind == "too_short":
                    text = rng.choice(self.bank.SHORT)
                elif kind == "garbled":
                    text = self._garbled(train)
                else:
                    text = self._single(rng.choice(INTENTS))
                    unknown = rng.choice(self.bank.UNKNOWN_LABELS)
                    intents = (unknown,) if rng.random() < 0.6 else (*intents, unknown)
                rows.append((text, intents))
        return rows

    def _single(self, intent: str) -> str:
        kind = self.rng.choices(["do", "say", "ask"], [30, 13, 9])[0]
        part = next(self.parts[kind, intent])
        frame = next(self.openings["do" if kind == "do" else "say"])
        return self._finished(frame.format(part))

    def _nothing(self) -> str:
        return self._finished(next(self.openings["say"]).format(next(self.parts["say", "none"])))

    def _combined(self, intents: tuple[str, ...]) -> str:
        order = self.rng.sample(intents, len(intents))
        kinds, frame = next(self.frames[len(intents)]).split(": ", 1)
        while kinds.startswith("when") and "notification" not in order and self.rng.random() < 0.75:
            kinds, frame = next(self.frames[len(intents)]).split(": ", 1)
        if kinds.startswith("when") and "notification" in order and self.rng.random() < 0.8:
            order.remove("notification")  # what follows an event is most often a message
            order.append("notification")
        parts = [next(self.parts[kind, intent]) for kind, intent in zip(kinds.split(), order, strict=True)]
        return self._finished(frame.format(**dict(zip("abcd", parts, strict=False))))

    def _turns(self, patterns: Sequence[str]) -> Iterator[str]:
        """Each pattern once, in random order, over and over, with its slots filled anew."""
        while True:
            for pattern in self.rng.sample(patterns, len(patterns)):
                yield re.sub(r"{(\w+)}", self._filler, pattern)

    def _filler(self, slot: re.Match[str]) -> str:
        return self.rng.choice(self.slots[slot[1]]) if slot[1] in self.slots else slot[0]

    def _is_question(self, clause: str) -> bool:
        find = re.search if self.language == "zh" else re.match
        return find(self.bank.QUESTION, clause) is not None

    def _finished(self, text: str) -> str:
        return self._finished_zh(text) if self.language == "zh" else self._finished_en(text)

    def _finished_en(self, text: str) -> str:
        rng = self.rng
        words = re.sub(r"^(when .*, |(\w+ ){0,2}\w+[,:] (but )?)", "", text)
        asks = re.match(self.bank.QUESTION, re.split(r"[.?!] ", words)[-1]) is not None
        style = rng.random()
        if style < 0.45:
            if rng.random() < 0.14:
                text = self._typo(text)
            return text + ("?" if asks and style < 0.15 else "")
        if style < 0.85:
            names = [name for slot in self.bank.PROPER_SLOTS for name in self.slots[slot]]
            for name in [*names, *self.bank.PROPER]:
                text = re.sub(rf"\b{re.escape(name)}\b", name.title() if name in names else name, text, flags=re.I)
            text = re.sub(r"\bi\b", "I", text)
            text = re.sub(r"(^|[.!?] )([a-z])", lambda start: start[1] + start[2].upper(), text)
            return text + ("?" if asks else rng.choice([".", ".", ".", "", "!"])) if text[-1] not in ".?!" else text
        return text + ("??" if asks else rng.choice(["!", "...", " :(", "!!"]))

    def _finished_zh(self, text: str) -> str:
        asks = re.search(self.bank.QUESTION, re.split(r"[，。？！；,]", text)[-1] or text) is not None
        if text[-1] in "。？！" or self.rng.random() < 0.45:
            return text
        return text + self.rng.choice(["？", "？", "?"] if asks else ["。", "。", "！", "~"])

    def _typo(self, text: str) -> str:
        """One letter dropped, doubled or swapped inside one longer word."""
        words = text.split(" ")
        long = [number for number, word in enumerate(words) if len(word) > 4 and word.isalpha()]
        if not long:
            return text
        number = self.rng.choice(long)
        word, at = words[number], self.rng.randrange(1, len(words[number]) - 2)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words[number] = self.rng.choice([swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]])
        return " ".join(words)

    def _with_filler(self, text: str) -> str:
        """One filler word swapped for another, or put in."""
        filler = self.rng.choice(self.bank.FILLERS)
        if self.language == "zh":
            return self.rng.choice([f"{filler}{text}", text.rstrip("。？！~?") + self.rng.choice("啊呀吧哦")])
        words = text.split(" ")
        old = [number for number, word in enumerate(words) if word.strip(".,!?").lower() in self.bank.FILLERS]
        if old:
            words[old[0]] = filler
        else:
            words.insert(self.rng.choice([0, len(words)]), filler)
        return " ".join(words)

    def _with_other_case(self, text: str) -> str:
        if not text.isascii():
            return self.rng.choice([text.replace("，", " ").replace("。", ""), f"{text}。。。"])
        return self.rng.choice([text.upper(), text.lower(), text.title()])

    def _with_other_punctuation(self, text: str) -> str:
        if self.rng.random() < 0.3:
            return text.replace(",", "").replace("，", ",")
        ends = ["！！", "。", "。。", "??", " "] if self.language == "zh" else ["!", "!!", "...", "??", " ?"]
        return text.rstrip(".?!。？！~") + self.rng.choice(ends)

    def _garbled(self, train: Sequence[Sample]) -> str:
        rng = self.rng
        while True:
            text = rng.choice(train).text
            kind = rng.randrange(5)
            if kind == 0:
                text = " ".join(rng.choices(self.bank.GARBLED_WORDS, k=rng.randint(2, 4)))
            elif kind == 1 and self.language == "zh":
                text = text.encode().decode("gbk", errors="ignore")
            elif kind == 1:
                text = f"‘{text}’ – “{rng.choice(train).text}”".encode().decode("cp1252", errors="ignore")
            elif kind == 2:
                at = rng.randrange(len(text))
                text = text[:at] + "\ufffd" * rng.randint(1, 3) + text[at:]
            elif kind == 3:
                text = "".join(rng.choices("#@%&*!?$^~+=/;:. ", k=rng.randint(9, 24)))
            else:
                text = rng.choice("aehmx哈啊嗯" if self.language == "zh" else "aehmxz") * rng.randint(9, 20)
            if len(text.strip()) >= self.bank.MIN_CHARS and is_garbled(text):
                return text


def _lines(block: str) -> list[str]:
    return [line for line in block.strip().splitlines() if line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the files of one language or of both; 1 when a file is stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lang", choices=LANGUAGES, help="one language; without it, all")
    parser.add_argument("--out", type=Path, help="folder of one language's files; without it data/intent/LANG")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not what it should be")
    options = parser.parse_args(arguments)
    if options.out and not options.lang:
        parser.error("--out holds one language's files; name it with --lang")
    languages = [options.lang] if options.lang else list(LANGUAGES)
    done = [
        _write(language, options.out or ROOT / "data" / "intent" / language, options.check) for language in languages
    ]
    return 0 if all(done) else 1


def _write(language: str, out: Path, check: bool) -> bool:
    """Write or check the files of one language; whether they are as they should be."""
    data = make(language)
    stale = []
    for name, content in data.files().items():
        path = out / name
        if check:
            if not path.exists() or path.read_bytes() != content.encode():
                stale.append(str(path))
        else:
            out.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
    if stale:
        print(f"not what tools/make_intents.py writes: {', '.join(stale)}", file=sys.stderr)
        return False
    report = data.cleaned.report
    print(
        f"{language}: {report.read} raw rows - {report.duplicates} duplicates - {report.near_duplicates} near-duplicates"
        f" - {report.low_quality} low-quality = {report.kept} training rows"
        f" ({report.multi_before['intents']:.1%} -> {report.multi_after['intents']:.1%} with several intents);"
        f" {len(data.valid)} validation rows"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
