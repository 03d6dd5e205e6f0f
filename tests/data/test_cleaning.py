"""Cleaning against brute force: what is dropped, what is kept, and that the report adds up."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import pytest

from mlxtune.data.cleaning import Cleaned, clean_rows, is_garbled
from mlxtune.data.labels import split_labels
from mlxtune.data.near import NEAR_JACCARD, NearIndex, near_duplicate_groups
from mlxtune.data.rows import Row
from mlxtune.errors import DataError
from mlxtune.recipe.sections import Clean

LABELS = ("payment", "notification", "none")


def cleaned(
    fields: Sequence[dict[str, Any]],
    dedupe: Literal["none", "exact", "near"] = "near",
    labels: Sequence[str] | None = LABELS,
) -> Cleaned:
    rows = [Row(field, "a.jsonl", line) for line, field in enumerate(fields, start=1)]
    settings = Clean(dedupe=dedupe, min_chars=4, drop_garbled=True)
    return clean_rows(rows, text_column="text", label_columns={"intents": labels}, settings=settings)


def labelled(*texts: str, label: Any = "payment") -> list[dict[str, Any]]:
    return [{"text": text, "intents": label} for text in texts]


def oracle_shingles(text: str) -> set[str]:
    """The definition in the module's words, character by character."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(character for character in text if unicodedata.category(character)[0] in "LMN")
    sizes = [2 if "\u4e00" <= character <= "\u9fff" else 3 for character in text]
    return {(text + "\0\0")[start : start + size] for start, size in enumerate(sizes)}


def oracle_near(a: str, b: str) -> bool:
    a_set, b_set = oracle_shingles(a), oracle_shingles(b)
    return len(a_set & b_set) >= NEAR_JACCARD * len(a_set | b_set)


def varied_texts(rows: int) -> list[str]:
    """English and Chinese texts, each third of them an earlier one with some words or characters changed."""
    random_ = random.Random(0)
    words = [
        "order",
        "refund",
        "please",
        "where",
        "is",
        "my",
        "parcel",
        "login",
        "code",
        "stock",
        "sent",
        "again",
        "the",
    ]
    characters = "我想查看订单状态请帮退款登录库存通知发送密码支付成功后"
    texts: list[str] = []
    for row in range(rows):
        if row % 3 == 2:
            old = random_.choice(texts)
            parts = old.split() if " " in old else list(old)
            for _ in range(random_.randint(0, 2)):
                parts[random_.randrange(len(parts))] = random_.choice(words if " " in old else characters)
            texts.append((" " if " " in old else "").join(parts) + random_.choice(["", "!", " "]))
        elif row % 2:
            texts.append(" ".join(random_.choices(words, k=random_.randint(2, 14))))
        else:
            texts.append("".join(random_.choices(characters, k=random_.randint(3, 20))))
    return texts


def test_near_pairs_are_those_that_brute_force_finds() -> None:
    texts = varied_texts(240)
    index = NearIndex(texts)
    found: set[tuple[int, int]] = set()
    for position in range(len(texts)):
        found.update((other, position) for other in index.near(position))
        index.add(position)
    expected = {(a, b) for a, b in combinations(range(len(texts)), 2) if oracle_near(texts[a], texts[b])}
    assert found <= expected, "a pair was reported that is not a near-duplicate"
    assert len(expected) > 60
    assert len(found) >= 0.97 * len(expected)


def test_groups_are_the_connected_components_of_near_pairs() -> None:
    texts = varied_texts(120)
    groups = list(range(len(texts)))
    for a, b in combinations(range(len(texts)), 2):
        if oracle_near(texts[a], texts[b]):
            groups = [groups[a] if group == groups[b] else group for group in groups]
    numbers: dict[int, int] = {}
    assert near_duplicate_groups(texts) == [numbers.setdefault(group, len(numbers)) for group in groups]


def test_no_texts_make_no_groups_and_empty_ones_share_one() -> None:
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["", "refund me", " "]) == [0, 1, 0]


def test_exact_duplicates_differ_only_in_spaces_around_them() -> None:
    report = cleaned(labelled("refund me", " refund me\n", "Refund me"), "exact").report
    assert (report.duplicates, report.near_duplicates, report.kept) == (1, 0, 2)


def test_near_duplicates_ignore_case_punctuation_width_and_one_filler_word() -> None:
    base = "could you please refund the second charge on my credit card before friday"
    same = [base.upper(), base + "!!!", base.replace(" ", "，"), base.replace("please", "kindly")]
    report = cleaned(labelled(base, *same)).report
    assert (report.near_duplicates, report.kept) == (4, 1)
    assert {drop.same_as for drop in report.dropped} == {"a.jsonl:1"}


def test_chinese_near_duplicates_are_found() -> None:
    report = cleaned(
        labelled("请帮我查一下订单为什么被重复扣款", "帮我查一下订单为什么被重复扣款吧", "仓库还剩多少件白色外套")
    ).report
    assert (report.near_duplicates, report.kept) == (1, 2)


def test_nothing_is_deduplicated_unless_asked() -> None:
    assert cleaned(labelled("refund me", "refund me"), "none").report.kept == 2


@pytest.mark.parametrize("dedupe", ["exact", "near"])
def test_the_same_text_under_other_labels_is_kept_and_listed(dedupe: Literal["exact", "near"]) -> None:
    rows = [*labelled("refund me"), *labelled("refund me", label="none"), *labelled("refund me")]
    report = cleaned(rows, dedupe).report
    assert (report.kept, report.duplicates) == (2, 1)
    assert [(conflict.line, conflict.conflicts_with) for conflict in report.conflicts] == [(2, "a.jsonl:1")]


def test_labels_agree_whatever_their_order_and_spelling() -> None:
    rows = [
        *labelled("refund me", label=["payment", "notification"]),
        *labelled("refund me", label="notification；payment"),
    ]
    assert cleaned(rows).report.duplicates == 1


def test_free_text_need_not_agree() -> None:
    rows = [Row({"text": "refund me", "reply": reply}, "a.jsonl", 1) for reply in ("Done.", "Sure.")]
    settings = Clean(dedupe="exact")
    columns: dict[str, None] = {"reply": None}
    strict = clean_rows(rows, text_column="text", label_columns=columns, settings=settings)
    prose = clean_rows(rows, text_column="text", label_columns=columns, settings=settings, free_text=["reply"])
    assert (strict.report.kept, prose.report.kept) == (2, 1)


def test_each_low_quality_row_has_its_reason_and_the_account_adds_up() -> None:
    rows = [
        *labelled("  ", "hm", "sdkfjh xcvbnm qwrtp", "refund me please", "refund me please", "Refund me, please!"),
        *labelled("notify me later", label=""),
        *labelled("what is this", label="payment, paymnt"),
        *labelled("text me when it is paid", label="payment, notification"),
    ]
    result = cleaned(rows)
    report = result.report
    assert report.low_quality_reasons == {
        "empty": 1, "too_short": 1, "garbled": 1, "missing_label": 1, "unknown_label": 1,
    }  # fmt: skip
    assert report.read == report.duplicates + report.near_duplicates + report.low_quality + report.kept == 9
    assert (report.duplicates, report.near_duplicates, report.low_quality) == (1, 1, 5)
    assert [row.line for row in result.rows] == [4, 9]
    assert [drop.line for drop in report.dropped] == [1, 2, 3, 5, 6, 7, 8]
    assert next(drop.detail for drop in report.dropped if drop.reason == "unknown_label") == "intents: 'paymnt'"


def test_multi_label_shares_and_label_counts_are_of_the_rows_they_name() -> None:
    rows = [*labelled("text me when it is paid", "text me when it is paid", label="payment|notification")]
    rows += labelled("refund the second charge", "where is my invoice")
    report = cleaned(rows).report
    assert report.multi_before == {"intents": 0.5}
    assert report.multi_after == {"intents": 1 / 3}
    assert report.labels == {"intents": {"payment": 3, "notification": 1}}


def test_an_allowed_label_may_contain_a_separator() -> None:
    assert split_labels("Billing, Payments", allowed=["Billing, Payments", "Other"]) == ["Billing, Payments"]
    assert split_labels(" a ;b，c、a") == ["a", "b", "c", "a"]
    assert split_labels("a, b; c", separator="; ") == ["a, b", "c"]
    assert split_labels(["x, y", " z "]) == ["x, y", "z"]


def test_a_row_without_the_text_column_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: expected text in the column 'text', got 'body'"):
        cleaned([{"body": "x", "intents": "payment"}])


@pytest.mark.parametrize(
    "text",
    [
        "sdkfjh xcvbnm qwrtp", "asdfghjkl asdfgh", "aaaaaaaaaaaaaa", "....!!!???", "#$%^&*( 12 @@ a",
        "😀😀😀", "refu\ufffdnd me",
        "cafÃ© dÃ©jÃ  vu", "I canâ€™t log in", "鐢ㄦ埛鐧诲綍澶辫触", "锟斤拷锟斤拷", "。。。。？？？", "1234 5678 999",
    ],
)  # fmt: skip
def test_garbled_texts_are_recognised(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize(
    "text",
    [
        "pw reset pls", "HTTPS TLS error on checkout", "nooooooooo why was I charged twice", "退款!!!!!!!!!",
        "订单20240518到哪了",
        "Où est ma commande ? J'ai été débité deux fois", "SKU-8841 qty?", "联通话费",
        "为什么我还欠20元", "我的iPhone登录不了",
        "Straße nach Köln",
        "pswrd wont work, rhythm app", "मेरा ऑर्डर कहाँ है", "注文はどこですか", "哈哈哈哈哈哈 库存怎么变成零了啊",
    ],
)  # fmt: skip
def test_texts_that_people_write_are_not_garbled(text: str) -> None:
    assert not is_garbled(text)
