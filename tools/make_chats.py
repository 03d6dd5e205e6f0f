"""Writes the small data sets of conversations: data/chat (messages) and data/alpaca (instruction, input, output).

They are there to show the formats and to try training on them, not to teach a model anything of use. All of it is made of the
lists below, in an order drawn by a fixed seed. `--check` fails when a file differs from what this program writes.

    python tools/make_chats.py            # writes data/chat/*.jsonl and data/alpaca/*.json
    python tools/make_chats.py --check
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"train": 40, "valid": 8, "test": 8}
SEED = 0

# A bicycle shop: kind -> price of a day.
BICYCLES = {"city bike": 12, "mountain bike": 18, "cargo bike": 25, "children's bike": 8, "tandem": 30, "unicycle": 20}
SHOPS = {
    "the station": "Main Street 4", "the lake": "Harbour Road 12", "the old town": "Bridge Lane 7",
    "the airport": "Terminal Square 1", "the museum": "Castle Hill 30",
}  # fmt: skip


@dataclass(frozen=True)
class Customers:
    """Those of one split. Nothing that they rent or say is in another split, so that none of its conversations is nearly one of another."""

    bicycles: Sequence[str]
    shops: Sequence[str]
    days: Mapping[int, str]
    openings: Sequence[str]
    places: Sequence[str]


CUSTOMERS = {
    "train": Customers(
        ["city bike", "mountain bike", "cargo bike", "children's bike"],
        ["the lake", "the old town", "the station"],
        {1: "For one day.", 2: "For 2 days.", 3: "For 3 days.", 5: "For 5 days.", 7: "For 7 days."},
        ["I would like to rent a {bicycle}.", "Do you have a {bicycle} for rent?", "How much is a {bicycle}?"],
        ["I will fetch it at {shop}.", "At {shop}, please.", "{shop} is best for me."],
    ),
    "valid": Customers(
        ["tandem"],
        ["the airport"],
        {1: "Just until tomorrow.", 4: "We need it from Monday to Thursday, so 4.", 6: "6 would be right for us."},
        [
            "Good morning, my wife and I want to go out on a {bicycle}. What do you charge?",
            "Can we get a {bicycle} from you?",
        ],
        ["We land at noon, so {shop} would suit us.", "Could you bring it to {shop}?"],
    ),
    "test": Customers(
        ["unicycle"],
        ["the museum"],
        {1: "Only today, I think.", 8: "8, from this weekend on.", 10: "Make it 10, I am a beginner."},
        ["Hello! My daughter asks for a {bicycle}, is there one?", "What does it cost me to try a {bicycle}?"],
        ["Then I come to {shop} after school.", "Which one is nearest? I live beside {shop}."],
    ),
}
# System message -> how the shop answers under it; None sends no system message.
MANNERS: dict[str | None, tuple[str, str]] = {
    None: ("A {bicycle} is {price} euros a day. For how many days?", "That is {total} euros for {days}. Where will you fetch it?"),
    "You rent out bicycles. Answer in as few words as you can.": ("{price} euros a day. How many?", "{total} euros. Which shop?"),
    "You rent out bicycles. Be warm and polite.": (
        "With pleasure! A {bicycle} is {price} euros a day. May I ask for how many days you need it?",
        "Thank you! That makes {total} euros for {days}. At which of our shops may we have it ready for you?",
    ),
}  # fmt: skip
CLOSINGS: dict[str | None, str] = {
    None: "It will be ready at {street}.",
    "You rent out bicycles. Answer in as few words as you can.": "{street}.",
    "You rent out bicycles. Be warm and polite.": "Wonderful, your {bicycle} will be waiting for you at {street}. Have a good ride!",
}

# Instruction -> input -> output; an input that is empty stands for an instruction that needs none.
TASKS: dict[str, dict[str, str]] = {
    "Write the opposite of the word.": {
        "warm": "cold", "early": "late", "heavy": "light", "empty": "full", "loud": "quiet", "near": "far", "narrow": "wide",
        "rough": "smooth", "ancient": "modern", "to arrive": "to leave",
    },
    "Turn the statement into a question.": {
        "The shop is open.": "Is the shop open?", "Anna can swim.": "Can Anna swim?", "They were at home.": "Were they at home?",
        "He has paid.": "Has he paid?", "You will come.": "Will you come?", "The soup was hot.": "Was the soup hot?",
        "We should wait.": "Should we wait?", "It is raining.": "Is it raining?", "She must go.": "Must she go?",
    },
    "Write the sentence in the past tense.": {
        "She walks to work.": "She walked to work.", "They eat bread.": "They ate bread.", "I see the lake.": "I saw the lake.",
        "He writes a letter.": "He wrote a letter.", "We drink tea.": "We drank tea.", "You sing well.": "You sang well.",
        "The dog sleeps.": "The dog slept.", "Tom buys a lamp.": "Tom bought a lamp.", "It begins at noon.": "It began at noon.",
    },
    "Which word does not belong in the list?": {
        "apple, pear, chair, plum": "chair", "red, blue, seven, green": "seven", "dog, cat, spoon, horse": "spoon",
        "run, swim, walk, table": "table", "Monday, Friday, March, Sunday": "March", "piano, violin, bread, flute": "bread",
        "rain, snow, shoe, hail": "shoe", "iron, copper, milk, gold": "milk", "oak, birch, trout, pine": "trout",
    },
    "Add the numbers.": {
        "3 and 4": "7", "12 and 8": "20", "15 and 15": "30", "9 and 6": "15", "40 and 2": "42", "7 and 13": "20", "25 and 50": "75",
        "11 and 22": "33", "100 and 1": "101",
    },
    "Name three things that are round.": {"": "A ball, a coin and a wheel."},
    "Name three drinks.": {"": "Water, tea and juice."},
    "Name three tools of a carpenter.": {"": "A saw, a hammer and a plane."},
    "Say good morning in a friendly way.": {"": "Good morning! I hope you slept well."},
    "Say in one sentence what a bridge is for.": {"": "A bridge lets people cross a river, a road or a valley."},
    "Say in one sentence why bread rises.": {"": "Yeast makes gas in the dough, and the bubbles lift it."},
    "Give a short title to a story about a lost key.": {"": "The Key That Went Missing"},
    "Write a short thank-you note to a neighbour.": {"": "Thank you for your help this week. It meant a lot to me."},
    "How many days has a week?": {"": "Seven."},
    "What do bees make?": {"": "Honey and wax."},
}  # fmt: skip


def chats(customers: Customers) -> list[dict[str, Any]]:
    """Conversations of the shop with some customers, in a drawn order."""
    kinds = list(itertools.product(customers.bicycles, customers.days, MANNERS))
    draw = random.Random(SEED)
    draw.shuffle(kinds)
    return [{"messages": _chat(customers, *kind, draw)} for kind in kinds]


def _chat(
    customers: Customers, bicycle: str, days: int, system: str | None, draw: random.Random
) -> list[dict[str, str]]:
    price = BICYCLES[bicycle]
    shop = draw.choice(customers.shops)
    words = {
        "bicycle": bicycle, "price": price, "total": price * days, "days": "one day" if days == 1 else f"{days} days",
        "shop": shop, "street": SHOPS[shop],
    }  # fmt: skip
    asks, adds_up = MANNERS[system]
    turns = [
        ("user", draw.choice(customers.openings)),
        ("assistant", asks),
        ("user", customers.days[days]),
        ("assistant", adds_up),
        ("user", draw.choice(customers.places)),
        ("assistant", CLOSINGS[system]),
    ]
    turns = turns[: draw.choice((2, 4, 6, 6))]
    messages = [{"role": role, "content": _sentence(text.format(**words))} for role, text in turns]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def instructions() -> list[dict[str, Any]]:
    """Instructions with their answers, in a drawn order."""
    records = [
        {"instruction": instruction, "input": given, "output": output}
        for instruction, answers in TASKS.items()
        for given, output in answers.items()
    ]
    random.Random(SEED).shuffle(records)
    return records


def files() -> dict[Path, str]:
    """Each file, under the repository's root, and what it holds."""
    found = {}
    records = iter(instructions())
    for name, size in SIZES.items():
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in chats(CUSTOMERS[name])[:size]]
        found[Path("data", "chat", f"{name}.jsonl")] = "".join(lines)
        text = json.dumps(list(itertools.islice(records, size)), ensure_ascii=False, indent=1)
        found[Path("data", "alpaca", f"{name}.json")] = text + "\n"
    return found


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if a file is not what would be written")
    check = parser.parse_args().check
    stale = []
    for name, text in files().items():
        file = ROOT / name
        if check:
            if not file.is_file() or file.read_text(encoding="utf-8") != text:
                stale.append(str(name))
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"not what tools/make_chats.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
