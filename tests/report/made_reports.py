"""Reports for tests and for trying a renderer out: one run with every kind of block, several systems, hostile texts.

PYTHONPATH=. python -m tests.report.made_reports FOLDER   # writes the pages of all of them
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mlxtune.report.blocks import (
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Facts,
    FieldAnswer,
    Folded,
    Paragraph,
    PredictionRow,
    Predictions,
    Report,
    Section,
    Table,
    Tile,
    Tiles,
)
from mlxtune.report.charts import (
    Axis,
    BarChart,
    Bars,
    HeatMap,
    LineChart,
    Mark,
    Point,
    ScatterChart,
    Series,
)

TYPES = ("Incident", "Request", "Problem", "Change")
PRIORITIES = ("high", "medium", "low")
TAGS = ("Bug", "IT", "Billing", "Login", "Outage", "Security", "Feature")
INPUTS = (
    "The dashboard has been slow since this morning's update; several colleagues report the same. Please look into it.",
    "I was charged twice for my subscription in March and need an invoice that is right.",
    "登录页面一直提示验证码错误，重置密码后仍然无法进入系统，请尽快处理。",
    "Could you add a way to export the monthly report as CSV? Our auditors ask for it every quarter.",
    "Performance slowdown in the project after we moved it to the new region.",
)
RESPONSES = (
    "We apologize for the inconvenience caused by the slow performance. Please contact us at <tel_num> so that we can look into it.",
    "We will review the billing discrepancy. Please send us your account number.",
    "您好，给您带来不便深表歉意。请您清除浏览器缓存后重试，若问题仍未解决，请致电客服。",
    "Thank you for your request. We have passed it on to the product team and will keep you informed.",
)
REPLIES = (
    "We apologize for the inconvenience caused. To better assist you, please call us at <tel_num> so that we can look into it.",
    "We are looking into the billing issue. Could you provide your account number?",
    "您好，非常抱歉给您带来不便。请清除浏览器缓存之后再试，如果问题仍未解决，请联系客服。",
    "Thank you. The product team has your request.",
)


def one_run(language: str = "en", n_rows: int = 68) -> Report:
    """A report of one run, with every kind of block and chart."""
    rows = ticket_rows(n_rows, ("base model", "tuned"))
    sections = [
        Section("headline", "Did the fine-tuning work?", _headline()),
        Section("losses", "Training and validation loss", [_losses(), _learning_rate(), _loss_table()]),
        Section("priority", "Field: priority", [*_field_blocks()]),
        Section("baselines", "Baselines", [_choice()]),
        Section("settings", "Settings", [*_settings()]),
        Section(
            "predictions", "Predictions", [Predictions(("tuned",), _labels(), [_only(row, "tuned") for row in rows])]
        ),
    ]
    return Report(
        "qwen2-7b-ticket-lora: tickets classified and answered", language, sections, made="2026-11-29, mlxtune 0.1.0"
    )


def several_systems(language: str = "en", n_rows: int = 60) -> Report:
    """A report of three systems that replied to the same rows."""
    systems = ("base model", "rank 32", "rank 64")
    scatter = ScatterChart(
        "cost", "Macro F1 against seconds a row", "rank 64 is best, 0.81 at 0.25 s.", Axis("seconds a row", "s"), Axis("macro F1"),
        [Point("base model", 0.31, 0.22, 0.15, 0.29), Point("rank 32", 0.2, 0.74, 0.68, 0.8), Point("rank 64", 0.25, 0.81, 0.75, 0.86)],
    )  # fmt: skip
    predictions = Predictions(systems, _labels(), ticket_rows(n_rows, systems))
    sections = [
        Section("cost", "What it costs", [scatter]),
        Section("predictions", "Predictions", [predictions]),
    ]
    return Report("Three systems", language, sections)


HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    '"><img src="https://example.com/x.png" onerror="window.pwned = 3">',
    "</title></style></textarea><svg onload='window.pwned = 4'>",
    "<!--<script>",
    "]]>",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:window.pwned=5",
    "right\u202eto left\u2066\u200b\ufeff\U000e0041",
    "controls \x00\x07\x1b[31m\x7f\x85\u2028 and half a pair \ud83d",
    "<a href='https://example.com'>&lt;&amp;",
    "' onmouseover='window.pwned = 6' x='",
)


def hostile(language: str = "en", long: int = 0) -> Report:
    """A report in which every text attacks the page.

    Args:
        language: Of the page.
        long: Characters of the longest texts; 0 leaves these out.
    """
    texts = [*HOSTILE, *(["<b>" + "x" * long] if long else [])]
    everything = "\n".join(HOSTILE)
    blocks: list[Block] = [
        *(Paragraph(text, "bad") for text in texts),
        Code(everything),
        Facts({text: text for text in texts}),
    ]
    blocks.append(Tiles([Tile(text, text, text, text, "warning") for text in texts]))
    blocks.append(
        Table(
            everything,
            [Column(everything), Column("n", True)],
            [[Cell(text), Cell(text, share=0.4)] for text in texts],
            everything,
        )
    )
    blocks.append(Folded(everything, [Choice(everything, {text: [Paragraph(text)] for text in texts})]))
    axis = Axis(everything, everything)
    blocks.append(
        LineChart(
            "lines",
            everything,
            everything,
            axis,
            axis,
            [Series(text, [0, 1], [0, 1]) for text in HOSTILE],
            [Mark(0.5, everything)],
        )
    )
    blocks.append(
        BarChart("bars", everything, everything, HOSTILE, [Bars(everything, [0.5] * len(HOSTILE))], axis, HOSTILE)
    )
    blocks.append(
        HeatMap(
            "heat",
            everything,
            everything,
            HOSTILE[:2],
            HOSTILE[:2],
            [[0.1, 0.2], [0.3, None]],
            [HOSTILE[:2]] * 2,
            axis,
            axis,
        )
    )
    rows = [
        PredictionRow(
            number,
            text,
            text,
            dict.fromkeys(texts[:2], text),
            {
                system: {
                    texts[0]: FieldAnswer((text,), (text, "b"), False),
                    texts[1]: FieldAnswer(text, text, None, None, text, 0.5),
                }
                for system in texts[:2]
            },
            {texts[0]: text},
        )
        for number, text in enumerate(texts)
    ]
    blocks.append(Predictions(texts[:2], {texts[0]: texts}, rows))
    return Report(
        everything,
        language,
        [Section(text, text, blocks if not at else []) for at, text in enumerate(texts)],
        everything,
    )


def ticket_rows(n_rows: int, systems: Sequence[str], characters: int = 0) -> list[PredictionRow]:
    """Tickets with their replies by systems of which each later one is better.

    Args:
        n_rows: How many.
        systems: Their names.
        characters: About how long each input and each response is made by adding words; 0 leaves them short.
    """
    chance = random.Random(0)
    skills = {system: 0.4 + 0.5 * (at + 1) / len(systems) for at, system in enumerate(systems)}
    return [_ticket(number, skills, chance, characters) for number in range(n_rows)]


def _ticket(number: int, skills: dict[str, float], chance: random.Random, characters: int) -> PredictionRow:
    priority, kind = chance.choice(PRIORITIES), chance.choice(TYPES)
    tags = tuple(sorted(chance.sample(TAGS, chance.randint(1, 3))))
    at = number % len(RESPONSES)
    response, reply = _padded(RESPONSES[at], characters, chance), _padded(REPLIES[at], characters, chance)
    replies, answers, problems = {}, {}, {}
    for system, skill in skills.items():
        if chance.random() > skill + 0.05:
            replies[system] = "I think that this is urgent."
            problems[system] = "the template's line “Classification:” is missing"
            unread = FieldAnswer(priority, None, False)
            answers[system] = {
                "type": FieldAnswer(kind, None, False), "priority": unread, "tags": FieldAnswer(tags, None, False),
                "response": FieldAnswer(response, None, None, None, "<0.3", 0.0),
            }  # fmt: skip
            continue
        said = [
            value if chance.random() < skill else chance.choice(values)
            for value, values in ((kind, TYPES), (priority, PRIORITIES))
        ]
        said_tags = tags if chance.random() < skill else tuple(sorted(chance.sample(TAGS, 2)))
        text = response if chance.random() < skill / 3 else reply
        closeness = 1.0 if text == response else round(0.2 + 0.6 * chance.random(), 3)
        bucket = ">0.5" if closeness > 0.5 else "0.3-0.5" if closeness >= 0.3 else "<0.3"
        replies[system] = (
            f"Classification:\n- Type: {said[0]}\n- Priority: {said[1]}\n- Tags: {', '.join(said_tags)}\n\nResponse:\n{text}"
        )
        answers[system] = {
            "type": FieldAnswer(kind, said[0], said[0] == kind, 0.4 + 0.6 * chance.random()),
            "priority": FieldAnswer(priority, said[1], said[1] == priority, 0.4 + 0.6 * chance.random()),
            "tags": FieldAnswer(tags, said_tags, said_tags == tags),
            "response": FieldAnswer(response, text, None, None, bucket, closeness),
        }
    text = _padded(INPUTS[number % len(INPUTS)], characters, chance)
    return PredictionRow(number, f"data/tickets/test.jsonl:{number + 1}", text, replies, answers, problems)


def _padded(text: str, characters: int, chance: random.Random) -> str:
    words = [text]
    length = len(text)
    while length < characters:
        words.append("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))))
        length += len(words[-1]) + 1
    return " ".join(words)


def _only(row: PredictionRow, system: str) -> PredictionRow:
    """The row with the reply of one system."""
    problems = {system: row.problems[system]} if system in row.problems else {}
    return PredictionRow(
        row.number, row.place, row.input, {system: row.replies[system]}, {system: row.answers[system]}, problems
    )


def _labels() -> dict[str, Sequence[str]]:
    return {"type": TYPES, "priority": PRIORITIES, "tags": ()}


def _headline() -> list[Block]:
    return [
        Paragraph("Yes: type and tags are better than before tuning, beyond chance; priority is not.", "good"),
        Tiles(
            [
                Tile("type: accuracy", "0.854 [0.843, 0.865]", "0.412 [0.397, 0.427]", "better, p < 0.001", "good"),
                Tile(
                    "priority: macro F1",
                    "0.571 [0.556, 0.586]",
                    "0.563 [0.548, 0.578]",
                    "no significant change",
                    "warning",
                ),
                Tile("tags: micro F1", "0.702 [0.690, 0.714]", "0.711 [0.699, 0.723]", "worse, p = 0.04", "bad"),
                Tile("response: ROUGE-L", "0.456 [0.449, 0.462]", None, ""),
            ]
        ),
        Paragraph(
            "Validation loss is 2.8 times the training loss: the model fits its training rows more than new ones.",
            "warning",
        ),
        Paragraph("4,240 test rows; 95% intervals by bootstrap over rows."),
    ]


def _losses() -> LineChart:
    steps = list(range(1, 401, 4))
    chance = random.Random(1)
    losses = [1.9 * math.exp(-step / 90) + 0.19 + 0.08 * chance.random() for step in steps]
    validation = list(range(20, 401, 20))
    return LineChart(
        "losses",
        "Training and validation loss",
        "The training loss falls from 2.1 to 0.2; the validation loss is lowest, 0.52, at step 240.",
        Axis("step"),
        Axis("loss", "nats per token", low=0),
        [
            Series("training", steps, losses),
            Series(
                "validation",
                validation,
                [1.5 * math.exp(-step / 80) + 0.5 + step / 8000 for step in validation],
                points=True,
            ),
        ],
        [Mark(240, "best")],
    )


def _learning_rate() -> LineChart:
    return LineChart(
        "learning_rate", "Learning rate", "Rises to 0.0002 in 12 steps, then falls to 0.", Axis("step"), Axis("learning rate"),
        [Series("learning rate", [0, 12, 400], [0, 2e-4, 0])],
    )  # fmt: skip


def _loss_table() -> Table:
    columns = [Column("segment"), Column("training", True), Column("validation", True), Column("ratio", True)]
    rows = [("template", 0.01, 0.01), ("type", 0.12, 0.38), ("priority", 0.31, 0.94), ("response", 0.24, 0.61)]
    return Table(
        "Loss by segment at the best step",
        columns,
        [
            [Cell(name), Cell(f"{a:.2f}"), Cell(f"{b:.2f}"), Cell(f"{b / a:.1f}", "bad" if b / a > 3 else "neutral")]
            for name, a, b in rows
        ],
        "Nats per token; unweighted.",
    )


def _field_blocks() -> list[Block]:
    cells = [[0.622, 0.293, 0.085], [0.269, 0.585, 0.146], [0.144, 0.406, 0.45]]
    counts = [[1026, 483, 140], [463, 1007, 251], [125, 352, 390]]
    confusion = HeatMap(
        "confusion_priority", "Confusion matrix of priority", "Of the rows that are low, 40.6% were answered medium.",
        PRIORITIES, PRIORITIES, cells,
        [[f"{share:.1%} ({count:,})" for share, count in zip(shares, row, strict=True)] for shares, row in zip(cells, counts, strict=True)],
        Axis("answer"), Axis("reference"),
    )  # fmt: skip
    labels = [
        f"intent {number:02}: {name}" for number, name in enumerate(["account_management", "payment", "退款申请"] * 6)
    ]
    many = HeatMap(
        "confusion_intents", "Confusion matrix of 18 intents", "Most rows lie on the diagonal.", labels, labels,
        [[0.8 if i == j else 0.2 if j == i + 1 else None for j in range(18)] for i in range(18)],
        [["16" if i == j else "4" if j == i + 1 else "" for j in range(18)] for i in range(18)],
        Axis("answer"), Axis("reference"),
    )  # fmt: skip
    share = [0.389, 0.406, 0.205]
    bars = BarChart(
        "labels_priority", "Rows a label", "low is the rarest label, 20.5% of the rows.", PRIORITIES,
        [Bars("training", share), Bars("test", [0.38, 0.41, 0.21])], Axis("share of rows"), [f"{each:.1%}" for each in share],
    )  # fmt: skip
    scores = [(0.66, 0.62, 0.64, 1649), (0.55, 0.59, 0.57, 1721), (0.5, 0.45, 0.47, 867)]
    table = Table(
        "Labels of priority",
        [Column("label"), *(Column(name, True) for name in ("precision", "recall", "F1", "support"))],
        [
            [
                Cell(label),
                Cell(f"{p:.3f}"),
                Cell(f"{r:.3f}", "warning" if r < 0.5 else "neutral"),
                Cell(f"{f:.3f}", share=f),
                Cell(f"{n:,}"),
            ]
            for label, (p, r, f, n) in zip(PRIORITIES, scores, strict=True)
        ],
        "Support: test rows with that label.",
    )
    return [table, confusion, bars, Folded("All 18 intents", [many])]


def _choice() -> Choice:
    def versus(name: str, low: float) -> Table:
        return Table(
            f"Against {name}",
            [Column("metric"), Column("this run", True), Column(name, True), Column("verdict")],
            [[Cell("type: accuracy"), Cell("0.854"), Cell(f"{low:.3f}"), Cell("better, p < 0.001", "good")]],
        )

    return Choice("Compared with", {"majority": [versus("majority", 0.395)], "TF-IDF": [versus("TF-IDF", 0.731)]})


def _settings() -> list[Block]:
    return [
        Facts(
            {
                "model.path": "Qwen/Qwen2-7B-Instruct", "lora.rank": "64", "lora.alpha": "128", "train.epochs": "3",
                "train.learning_rate": "0.0002", "mlxtune": "0.1.0", "mlx": "0.32.4", "device": "Apple M3 Max, 64 GB",
                "data.train": "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            }
        ),
        Code("mlxtune lora recipe.yaml --set train.epochs=3\nmlxtune evaluate runs/qwen2-ticket/20261129T012500Z", "sh"),
        Folded("The whole recipe", [Code("name: qwen2-ticket\nmodel:\n  path: Qwen/Qwen2-7B-Instruct\n" * 12, "yaml")]),
    ]  # fmt: skip


REPORTS: dict[str, Callable[[], Report]] = {
    "one_run": one_run,
    "one_run_zh": lambda: one_run("zh"),
    "several_systems": several_systems,
    "hostile": hostile,
    "many_rows": lambda: Report(
        "4,240 tickets",
        "en",
        [
            Section(
                "predictions", "Predictions", [Predictions(("tuned",), _labels(), ticket_rows(4240, ("tuned",), 500))]
            )
        ],
    ),
}

if __name__ == "__main__":
    from mlxtune.report.page.render import render

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in REPORTS.items():
        file = folder / f"{name}.html"
        file.write_text(render(make()), encoding="utf-8")
        print(file, file.stat().st_size)
