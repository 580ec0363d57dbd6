"""Tables of the command line: no cell wraps, at any width; what each table looks like at 80 and at 120 columns."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from coreface.evaluation.all_pairs import ScoredPair
from coreface.evaluation.calibrated_threshold import CalibratedThreshold
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.identification import DistractorRate, Identification
from coreface.evaluation.metrics import Eer, KfoldAccuracy, TarAtFar
from coreface.evaluation.metrics.groups import GroupRate, GroupRates
from coreface.evaluation.metrics.proportions import badge
from coreface.evaluation.metrics.searches import Searches
from coreface.evaluation.metrics.uncertainty import Difference, Interval
from coreface.evaluation.verification import Mistakes, Verification
from coreface.reports.tables import (
    print_comparison,
    print_groups,
    print_searches,
    print_thresholds,
    print_verification,
)
from coreface.reports.terminal_table import Column, print_table

WIDTHS = (80, 120)


def printed(width, *arguments, show=print_table, **options):
    console = Console(width=width, file=io.StringIO())
    show(*arguments, **options, console=console)
    return console.file.getvalue()


def interval(low, high):
    return Interval(low, high, 0.95, 1000, 0)


def verification():
    """The widest that there is: a perfect accuracy, negative thresholds, a rate that the pairs do not resolve."""
    genuine, impostor = 300_000, 300_000
    tar = (
        TarAtFar(1.0, -0.123456, 0.1, 0.1, genuine, impostor, True),
        TarAtFar(0.98765, 0.234567, 9.97e-5, 0.0001, genuine, impostor, True),
        TarAtFar(None, None, None, 1e-6, genuine, impostor, False),
    )
    folds = (1.0,) * 10
    return Verification(
        eer=Eer(0.0123, 0.2345, 0.0122, 0.0124, genuine, impostor),
        eer_interval=interval(0.0101, 0.0145),
        tar=tar,
        tar_intervals=(interval(1.0, 1.0), interval(0.9712, 0.9934), None),
        images=123_456,
        identities=5_749,
        single_image_identities=0,
        genuine=genuine,
        impostor=impostor,
        replicates=1000,
        interval_note="100 replicates instead of 1000, to save time with so many pairs",
        worst=Mistakes((ScoredPair(0, 1, 0.5),), ()),
        genuine_scores=np.zeros(1),
        impostor_scores=np.zeros(1),
        accuracy=KfoldAccuracy(1.0, 0.0, folds, (-0.1234,) * 5 + (0.2345,) * 5, (), 600_000, 0.99, 1.0),
        accuracy_interval=interval(1.0, 1.0),
        failures=12,
    )


def identification():
    """Two galleries of which the larger one has a hundred strangers' searches, too few for an FPIR of 0.1 %."""

    def searches(gallery, hits):
        mated = np.arange(200) < 100
        own = np.where(mated, np.linspace(0.2, 0.9, 200), -np.inf)
        rank = np.where(mated, np.where(np.arange(200) < hits, 1, 7), 0)
        return Searches(mated, own, rank, np.linspace(-0.2, 0.4, 200), gallery)

    return Identification((searches(1772, 90), searches(123_456, 50)), (0.1, 0.001))


def thresholds():
    behind = (badge(4000, 40_000), badge(12, 40_000), badge(0, 40_000))
    return [
        CalibratedThreshold(0.1, -0.01234, 0.1, 0.0912, 0.112, -0.0234, 0.00123, 0.0123, behind[0]),
        CalibratedThreshold(0.001, 0.3456, 0.0003, 0.00012, 0.00078, 0.3210, None, 0.1234, behind[1]),
        CalibratedThreshold(0.0001, 0.4567, 0.0, None, None, None, None, 1.0, behind[2]),
        CalibratedThreshold(1e-06, None, None, None, None, None, None, None, None),
    ]


def gallery_thresholds():
    behind = badge(40, 40_000)
    return [
        CalibratedThreshold(0.1, 0.3456, 0.00105, 0.0007, 0.002, 0.32, 0.36, 0.1234, behind, "searches"),
        CalibratedThreshold(0.01, 0.4567, 0.0001, 0.00002, 0.0004, 0.42, 0.48, 0.2345, behind, "independence"),
    ]


def groups(*names):
    count = len(names)
    rate, few, none = GroupRate(0.0123, 1230, 100_000), GroupRate(None, 7, 100_000), GroupRate(None, 0, 0)
    cells = np.full((count, count), None)
    for row in range(count):
        for column in range(count):
            cells[row, column] = few if row == column == 0 else none if row == column == 1 else rate
    return GroupRates(0.3456, names, (100,) * count, (rate,) * count, tuple(map(tuple, cells)), 1.23, None, 4)


def comparison():
    return {
        "accuracy": (0.9912, 0.9876, Difference(0.0036, interval(-0.0012, 0.0087), 0.134)),
        "EER": (1.0, 0.0, Difference(1.0, interval(0.9, 1.0), 0.002)),
        "TAR at FAR 0.0001": (0.5, 0.6, Difference(None, Interval(None, None, 0.95, 1000, 1000), None)),
    }


def every_table(width):
    """Print every table of error rates, as the commands do."""
    console = Console(width=width, file=io.StringIO())
    print_verification(verification(), console, name="lfw/pairs.txt")
    print_searches("open-set:people", identification(), [DistractorRate(1000, 0.98765, 2240)], console)
    calibrator = Calibrator.fit(np.linspace(0, 1, 1000), np.linspace(-1, 0.5, 40_000))
    print_thresholds(thresholds(), calibrator, console=console)
    print_thresholds(gallery_thresholds(), calibrator, 1000, console)
    print_groups(groups("female", "male"), console)
    print_groups(groups("African", "Asian", "Caucasian", "Indian"), console)
    print_comparison("lfw/pairs.txt", comparison(), ("runs/one", "runs/other"), console=console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_golden_output(width):
    expected = (Path(__file__).parent / f"tables_{width}.txt").read_text(encoding="utf-8")
    assert every_table(width) == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_of_the_golden_output_fits(width):
    assert max(cell_len(line) for line in every_table(width).splitlines()) <= width


def test_what_is_wider_is_used():
    narrow, wide = map(every_table, WIDTHS)
    for heading in ("false matches", "false non-matches", "95 % interval of the FMR"):
        assert heading in wide
        assert heading not in narrow
    # Four groups are a matrix at 120 columns, and a record each at 80.
    assert "FMR with African   FMR with Asian" in wide
    assert "  FMR with African " in narrow
    assert "FMR with African   FMR with Asian" not in narrow


COLUMNS = (Column("run", left=True), "loss", Column("images a second", detail=True))
ROWS = [["runs/a", "1.5", "100"], ["runs/long", "12.5", "2000"], [], ["mean", "7", "1050"]]


def test_a_table_that_fits():
    assert printed(80, COLUMNS, ROWS, title="Runs", notes=["A note."]).splitlines() == [
        "Runs",
        "run         loss   images a second",
        "---------   ----   ---------------",
        "runs/a       1.5               100",
        "runs/long   12.5              2000",
        "",
        "mean           7              1050",
        "A note.",
        "",
    ]


def test_details_are_left_out_first():
    whole, brief = len("---------   ----   ---------------"), len("---------   ----")
    assert "images a second" in printed(whole, COLUMNS, ROWS)
    for width in (whole - 1, brief):
        assert printed(width, COLUMNS, ROWS).splitlines() == [
            "run         loss",
            "---------   ----",
            "runs/a       1.5",
            "runs/long   12.5",
            "",
            "mean           7",
            "",
        ]


def test_records_hold_all_columns():
    width = len("---------   ----") - 1
    assert printed(width, COLUMNS, [*ROWS[:2], ["runs/c", "", "3"]]).splitlines() == [
        *("runs/a", "  loss             1.5", "  images a second  100"),
        *("runs/long", "  loss             12.5", "  images a second  2000"),
        *("runs/c", "  images a second  3", ""),
    ]


def test_cells_are_taken_literally():
    rows = [["[bold]a[/bold] :smile:", "1"], ["two\nlines\x1b[31m", "2"]]
    assert printed(80, (Column("name", left=True), "n"), rows).splitlines()[2:4] == [
        "[bold]a[/bold] :smile:   1",
        "two lines [31m           2",
    ]


def test_wide_letters_are_aligned():
    lines = printed(80, (Column("name", left=True), "n"), [["山田", "1"], ["Anna", "2"]]).splitlines()
    assert lines[2:4] == ["山田   1", "Anna   2"]


words = st.text(st.sampled_from("ab1 %山[]\n"), max_size=12).map(lambda text: f"x{text}x")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), width=st.integers(5, 90), details=st.lists(st.booleans(), min_size=1, max_size=4))
def test_every_cell_is_on_one_line_and_every_table_fits(data, width, details):
    columns = [Column(data.draw(words), left=True)]
    columns += [Column(data.draw(words), detail=detail) for detail in details]
    row = st.lists(words, min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    lines = printed(width, columns, rows).splitlines()

    # The same by hand: which columns are shown, and whether as a table.
    texts = [[text.replace("\n", " ") for text in row] for row in ([c.heading for c in columns], *rows)]
    widths = [max(cell_len(row[n]) for row in texts) for n in range(len(columns))]
    brief = [n for n, column in enumerate(columns) if not column.detail]
    fits = [shown for shown in (range(len(columns)), brief) if sum(widths[n] + 3 for n in shown) - 3 <= width]
    if fits:
        lines.insert(0, lines.pop(1))
        assert lines[0].split("   ") == ["-" * widths[n] for n in fits[0]]
        for row, line in zip(texts, lines[1:-1], strict=True):
            aligned = [text + " " * (w - cell_len(text)) for text, w in zip(row, widths, strict=True)][:1]
            aligned += [" " * (w - cell_len(text)) + text for text, w in zip(row[1:], widths[1:], strict=True)]
            assert line == "   ".join(aligned[n] for n in fits[0]).rstrip()
    else:
        expected = []
        longest = max(map(cell_len, texts[0][1:]))
        for row in texts[1:]:
            expected.append(row[0])
            for head, text in zip(texts[0][1:], row[1:], strict=True):
                expected.append(f"  {head}{' ' * (longest - cell_len(head))}  {text}")
        assert lines[:-1] == expected
