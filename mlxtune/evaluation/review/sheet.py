"""The rating sheet: a CSV file that people fill in with a spreadsheet, written and read back. No statistics, no runs.

Spreadsheets run a cell that begins with = + - or @ as a formula, so such a cell gets an apostrophe before it. They save
what they opened in their own way: with semicolons or tabs, as UTF-16, in the code page of the country, with changed line
ends. All of that is read back; texts are known again by a fingerprint that forgives it.

    write_text(path, sheet_text(lines))
    sheets, warnings = read_sheets([Path("scores-anna.csv")], fingerprints)
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.errors import DataError, Problem, did_you_mean

CASE = "case_id"
TEXTS = ("input", "reference", "prediction")
DIMENSIONS = ("relevance", "professionalism", "completeness", "tone", "overall")
COMMENT = "comment"
COLUMNS = (CASE, *TEXTS, *DIMENSIONS, COMMENT)
LOWEST, HIGHEST = 1, 5
MAX_CELL = 32_767  # characters that Excel keeps of a cell
MAX_NAMED = 5  # cases named in one sentence

_FORMULA = tuple("=+-@")
_SEPARATORS = ",;\t"
# Of text that is no Unicode: what Excel saves "CSV" as in China and Japan; in the West and on an older Mac.
_EASTERN, _WESTERN = ("gb18030", "cp932"), ("cp1252", "mac_roman")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods and .numbers; .xls
_WHOLE = re.compile(r"(\d+)(?:[.,]0*)?")

Fingerprints = Mapping[str, Mapping[str, str]]  # case id -> column of text -> `fingerprint`


@dataclass(frozen=True)
class Line:
    """What a rater sees of one case."""

    case: str
    input: str
    reference: str
    prediction: str

    def texts(self) -> dict[str, str]:
        """Column -> text."""
        return {"input": self.input, "reference": self.reference, "prediction": self.prediction}


@dataclass(frozen=True)
class Rating:
    """What a rater said of one case: dimension -> 1 to 5, without those left empty."""

    case: str
    scores: Mapping[str, int]
    comment: str


@dataclass(frozen=True)
class Sheet:
    """One rater's ratings, of the cases that the sheet holds."""

    path: Path
    rater: str
    sha256: str
    ratings: tuple[Rating, ...]

    @property
    def n_scores(self) -> int:
        """Cells filled with a score."""
        return sum(len(rating.scores) for rating in self.ratings)


def sheet_text(lines: Sequence[Line]) -> str:
    """The sheet with its columns for scores empty. The byte order mark is what tells Excel that it is UTF-8.

    >>> sheet_text([Line("bcdf-1", "=1+1", "a", "b")])[1:].splitlines()[1]
    "bcdf-1,'=1+1,a,b,,,,,,"
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for line in lines:
        writer.writerow(
            [line.case, *(safe_cell(text) for text in line.texts().values()), *("" for _ in DIMENSIONS), ""]
        )
    return "\ufeff" + out.getvalue()


def fingerprint(text: str) -> str:
    """What stays of a text when spreadsheets open and save it: no white space, no apostrophe before a formula."""
    kept = "".join(unicodedata.normalize("NFC", safe_cell(text)).split()).lstrip("'")
    return hashlib.sha256(kept.encode()).hexdigest()[:12]


def is_filled(path: Path) -> bool:
    """Whether a sheet holds a score or a comment; also where that cannot be told."""
    try:
        rows = _records(_decoded(path.read_bytes(), {}))
        header = [_name(cell) for cell in rows[0]]
        columns = [header.index(name) for name in (*DIMENSIONS, COMMENT)]
    except (DataError, ValueError):
        return True
    return any(cell.strip() for row in rows[1:] for cell in (row[i] for i in columns if i < len(row)))


def read_sheets(paths: Sequence[Path], fingerprints: Fingerprints) -> tuple[list[Sheet], list[str]]:
    """Filled sheets, one a rater.

    A score is a whole number from 1 to 5; "4.0" and "4,0" are 4, as spreadsheets write it. Halves are no step of the scale
    and are refused, not rounded. A cell may be empty and a case may be missing: not everybody rates all.

    Args:
        paths: The files.
        fingerprints: The cases that were written.

    Returns:
        The sheets, raters named by their files; and sentences about what is odd and was read nevertheless.

    Raises:
        DataError: All that is wrong in all sheets, each at its row and column as a spreadsheet counts them.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    sheets: list[Sheet] = []
    stems = Counter(path.stem for path in paths)
    for path in paths:
        rater = path.stem if stems[path.stem] == 1 else str(path)
        try:
            content = path.read_bytes()
            rows = _records(_decoded(content, fingerprints))
        except FileNotFoundError:
            problems.append(Problem(str(path), "no such file"))
            continue
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
            continue
        except DataError as error:
            problems.append(Problem(str(path), str(error)))
            continue
        ratings = _ratings(rows, path, fingerprints, problems, warnings)
        sha256 = hashlib.sha256(content).hexdigest()
        sheet = Sheet(path, rater, sha256, tuple(ratings))
        twin = next((other for other in sheets if other.sha256 == sha256), None)
        if twin is not None and sheet.n_scores:
            what = "given twice" if twin.path == path else f"the same content as {twin.path}"
            problems.append(
                Problem(
                    str(path),
                    f"{what}; give each rater's sheet once, as a copy would raise the agreement between raters",
                )
            )
        sheets.append(sheet)
    if problems:
        raise DataError("filled sheets", problems)
    return sheets, warnings


def safe_cell(text: str) -> str:
    """A text as a cell may hold it: no control characters, and nothing that a spreadsheet would run.

    Spreadsheets take the full-width forms for formulas too, and some pass over white space before them.

    >>> safe_cell("=1+1"), safe_cell("1+1")
    ("'=1+1", '1+1')
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text)
    start = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return f"'{text}" if start.startswith(_FORMULA) or text.startswith("\t") else text


# Reading ---------------------------------------------------------------------------------------------------------


def _decoded(content: bytes, fingerprints: Fingerprints) -> str:
    if content.startswith(_WORKBOOKS):
        raise DataError("a spreadsheet program's own format; save it as CSV (in Excel: CSV UTF-8) and give that file")
    if not content.strip():
        raise DataError("empty; expected a filled copy of the sheet")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            raise DataError("begins as UTF-16 text but is not; save it as CSV UTF-8") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _of_code_page(content, fingerprints)
    if "\0" in text:
        raise DataError("not a text file; save the sheet as CSV UTF-8")
    return text


def _of_code_page(content: bytes, fingerprints: Fingerprints) -> str:
    """Text in the code page under which the most texts are those that were written.

    Where the texts cannot tell, as all of them are ASCII and only comments are not: Chinese and Japanese characters take two
    bytes or more, Western letters with accents stand alone.
    """
    together, alone = (
        len(re.findall(run, content)) for run in (rb"[\x80-\xff]{2,}", rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
    )
    best, text = -1, ""
    for name in (*_EASTERN, *_WESTERN) if together > alone else (*_WESTERN, *_EASTERN):
        try:
            candidate = content.decode(name)
            same = _n_unchanged(_records(candidate), fingerprints)
        except (UnicodeDecodeError, DataError):
            continue
        if same > best:
            best, text = same, candidate
    if best < 0:
        raise DataError("neither UTF-8 nor a code page known here; save it as CSV UTF-8")
    return text


def _n_unchanged(rows: Sequence[Sequence[str]], fingerprints: Fingerprints) -> int:
    header = [_name(cell) for cell in rows[0]]
    places = [(name, header.index(name)) for name in TEXTS if name in header]
    case = header.index(CASE) if CASE in header else 0
    return sum(
        fingerprint(row[i]) == fingerprints.get(_case(row[case]), {}).get(name)
        for row in rows[1:]
        for name, i in places
        if len(row) > max(i, case)
    )


def _records(text: str) -> list[list[str]]:
    """The rows with the header first, split by the separator under which the header is ours."""
    text = text.lstrip("\ufeff")
    first, _, rest = text.partition("\n")
    if first.strip().casefold().startswith("sep="):  # Excel reads this line and does not count it
        text = rest
    found: list[list[str]] = []
    try:
        separator = max(_SEPARATORS, key=lambda mark: _n_known(text, mark))
        if not _n_known(text, separator):
            shown = text.strip().split("\n")[0][:60]
            raise DataError(f"expected the columns {', '.join(COLUMNS)}; the first line is {shown!r}")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            found.append(row)
    except csv.Error as error:
        raise DataError(f"row {len(found) + 1}: not CSV: {error}; save it from a spreadsheet as CSV UTF-8") from None
    return found


def _n_known(text: str, separator: str) -> int:
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    return len({_name(cell) for cell in header} & set(COLUMNS))


def _ratings(
    rows: Sequence[Sequence[str]],
    path: Path,
    fingerprints: Fingerprints,
    problems: list[Problem],
    warnings: list[str],
) -> list[Rating]:
    """The ratings of one sheet; what is wrong is added to `problems`, what is odd to `warnings`."""
    header = [_name(cell) for cell in rows[0]]
    found_problems, odd = _header_problems(header, path)
    problems += found_problems
    warnings += odd
    if CASE not in header or header.count(CASE) > 1:
        return []
    ids = {_case(row[header.index(CASE)]) for row in rows[1:] if len(row) > header.index(CASE)} - {""}
    tags, own = ({case.partition("-")[0] for case in cases} for cases in (ids, fingerprints))
    if tags and not tags & own:
        begin = f"its case ids begin with {min(tags)!r}, those of the key with {min(own)!r}"
        advice = "name the runs that it was made of, or its folder with --out"
        problems.append(Problem(str(path), f"of another sheet: {begin}; {advice}"))
        return []
    found: list[Rating] = []
    seen: dict[str, int] = {}
    changed: dict[str, list[str]] = {name: [] for name in TEXTS}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        place = f"{path} row {number}"
        if any(cell.strip() for cell in row[len(header) :]):
            counted = f"{len(row)} cells under {len(header)} columns"
            problems.append(Problem(place, f"{counted}; text with a separator in it needs quotes"))
            continue
        cells = dict(zip(header, [*row, *[""] * len(header)], strict=False))
        case = _case(cells[CASE])
        if case not in fingerprints:
            problems.append(Problem(f"{place} column {CASE}", _unknown(cells[CASE], fingerprints)))
            continue
        if case in seen:
            problems.append(
                Problem(f"{place} column {CASE}", f"{case} is already in row {seen[case]}; keep one of the two")
            )
            continue
        seen[case] = number
        comment = cells.get(COMMENT, "").strip().removeprefix("'")
        found.append(Rating(case, _scores(cells, place, problems), comment))
        for name in TEXTS:
            if name in cells and fingerprint(cells[name]) != fingerprints[case].get(name):
                changed[name].append(case)
    for name, cases in changed.items():
        if cases:
            what = f"the {name} was changed since the sheet was written, in {_named(cases)}"
            warnings.append(f"{path}: {what}; the scores are used all the same")
    missing = [case for case in fingerprints if case not in seen]
    if missing:
        warnings.append(f"{path}: does not hold {_named(missing)} of {len(fingerprints)}")
    return found


def _header_problems(header: Sequence[str], path: Path) -> tuple[list[Problem], list[str]]:
    """What is wrong with a sheet's columns, and what is odd."""
    place = f"{path} row 1"
    problems = [
        Problem(place, f"two columns {name!r}; keep one") for name, n in Counter(header).items() if name and n > 1
    ]
    for name in (CASE, *DIMENSIONS):
        if name not in header:
            hint = did_you_mean(name, [other for other in header if other not in COLUMNS])
            problems.append(Problem(place, f"no column {name!r}{hint}; its cells may be empty, but it must be there"))
    odd = []
    gone = [name for name in (*TEXTS, COMMENT) if name not in header]
    if gone:
        odd.append(f"{path}: has no column {', '.join(gone)}; it is read without")
    extra = [name for name in header if name and name not in COLUMNS]
    if extra:
        odd.append(f"{path}: unknown columns are ignored: {', '.join(extra)}")
    return problems, odd


def _scores(cells: Mapping[str, str], place: str, problems: list[Problem]) -> dict[str, int]:
    """A row's scores by dimension; cells that hold none are added to `problems`."""
    scores: dict[str, int] = {}
    for name in DIMENSIONS:
        written = cells.get(name, "").strip().removeprefix("'").strip()
        if not written:
            continue
        score = _score(written)
        if score is None:
            wanted = f"expected a whole number {LOWEST} to {HIGHEST}, or nothing where it was not judged"
            problems.append(Problem(f"{place} column {name}", f"{wanted}; got {written[:40]!r}"))
        else:
            scores[name] = score
    return scores


def _score(written: str) -> int | None:
    """A score, or None where the cell holds no valid one. Full-width digits are valid: some keyboards write only these."""
    whole = _WHOLE.fullmatch(unicodedata.normalize("NFKC", written))
    value = int(whole.group(1)) if whole else 0
    return value if LOWEST <= value <= HIGHEST else None


def _unknown(cell: str, fingerprints: Fingerprints) -> str:
    if not cell.strip():
        return "empty; expected the case id that the row was given"
    return f"no case {cell.strip()!r} was written; they are {min(fingerprints)} to {max(fingerprints)}"


def _named(cases: Sequence[str]) -> str:
    """
    >>> _named(["a"]), _named(["a", "b"])
    ('case a', '2 cases (a, b)')
    """
    if len(cases) == 1:
        return f"case {cases[0]}"
    more = ", ..." if len(cases) > MAX_NAMED else ""
    return f"{len(cases)} cases ({', '.join(cases[:MAX_NAMED])}{more})"


def _name(cell: str) -> str:
    return cell.strip().casefold().replace(" ", "_")


def _case(cell: str) -> str:
    return cell.strip().removeprefix("'").casefold()
