"""Charts as files: which are written, when they are refused, and which fonts they need."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mlxtune.errors import RunError
from mlxtune.report.figures import files, fonts
from mlxtune.report.figures.files import PNG_DPI, write_figures
from mlxtune.report.figures.frame import WIDTH
from tests.conftest import ROOT, snapshot
from tests.report.figures.made_charts import bars, heat, losses, plain_charts, scatter


def test_each_chart_is_an_svg_and_a_png_of_its_name(tmp_path: Path) -> None:
    written = write_figures(plain_charts(), tmp_path / "figures")
    names = ["lines", "bars", "runs", "heat", "scatter"]
    assert written == [tmp_path / "figures" / f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    assert sorted(written) == sorted((tmp_path / "figures").iterdir())
    for file in written[1::2]:
        with Image.open(file) as picture:
            picture.load()
            assert picture.width == int(WIDTH / 72 * PNG_DPI) and round(picture.info["dpi"][0]) == PNG_DPI


def test_the_same_charts_are_the_same_files(tmp_path: Path) -> None:
    for name in "ab":
        write_figures([losses(), heat(["a", "b"])], tmp_path / name)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_files_that_are_there_are_replaced_only_by_force(tmp_path: Path) -> None:
    write_figures([losses()], tmp_path)
    (tmp_path / "lines.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=r"holds lines\.svg and 1 more figures already; replace them with --force"):
        write_figures([scatter(), losses()], tmp_path)
    assert snapshot(tmp_path) == before
    write_figures([losses()], tmp_path, force=True)
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG") and (
        tmp_path / "notes.txt"
    ).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("")
    with pytest.raises(RunError, match="figures: is a file; choose a folder"):
        write_figures([losses()], tmp_path / "figures", force=True)


def test_nothing_is_written_if_one_chart_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(chart: object) -> str:
        raise ValueError("no")

    monkeypatch.setattr(files, "svg_file", broken)
    with pytest.raises(ValueError, match="no"):
        write_figures([losses()], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_equal_charts_are_written_once_and_others_of_their_name_get_numbers(tmp_path: Path) -> None:
    written = write_figures([bars(["a"], [1]), bars(["a"], [1]), bars(["a"], [2])], tmp_path)
    assert [file.name for file in written] == ["bars.svg", "bars.png", "bars-2.svg", "bars-2.png"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("confusion 类型", "confusion-类型"),
        ("../../etc/x", "etc-x"),
        ("", "figure"),
        ("..", "figure"),
        ("a:b*c", "a-b-c"),
        ("x" * 300, "x" * 80),
    ],
)
def test_names_become_names_of_files_in_the_folder(tmp_path: Path, name: str, file: str) -> None:
    written = write_figures([replace(bars(["a"], [1]), name=name)], tmp_path / "figures")
    assert [path.relative_to(tmp_path / "figures") for path in written] == [Path(f"{file}.svg"), Path(f"{file}.png")]


def test_characters_that_no_font_has_are_named_once_and_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(files, "installed_fonts", lambda: ("DejaVu Sans",))
    with caplog.at_level(logging.DEBUG):
        write_figures([bars(["支付", "é"], [1, 2]), heat(["支付", "订单"])], tmp_path)
    assert len(caplog.messages) == 1 and not recwarn.list
    assert (
        "boxes in the place of 付单支订, since" in caplog.messages[0] and "install Noto Sans CJK" in caplog.messages[0]
    )


def test_a_chinese_font_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(fonts.installed_fonts()) < 2:
        pytest.skip("no Chinese font is installed here")
    assert fonts.missing_characters(["支付 Übung"], fonts.installed_fonts()) == ""
    assert fonts.missing_characters(["支付 Übung"], ["DejaVu Sans"]) == "付支"


def test_a_font_that_was_installed_after_matplotlib_listed_them_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    if len(fonts.installed_fonts()) < 2:
        pytest.skip("no Chinese font is installed here")
    listed = font_manager.fontManager.ttflist
    new = {font.fname for font in listed if font.name in fonts.CHINESE_FONTS}  # files, which may hold several fonts
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [font for font in listed if font.fname not in new])
    assert len(fonts.installed_fonts.__wrapped__()) == 2


def test_a_first_run_without_a_writable_home_draws_and_says_nothing(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from mlxtune.report.figures.files import write_figures
from tests.report.figures.made_charts import bars
import sys
assert "matplotlib" not in sys.modules
print(*[file.name for file in write_figures([bars(["payment"], [1])], Path("out"))])
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MPL", "XDG"))}
    environment |= {"HOME": "/proc/nowhere", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bars.svg bars.png\n", "")
