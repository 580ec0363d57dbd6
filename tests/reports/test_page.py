"""The page says what the verification says, trusts no text, needs nothing from outside and is the same every time."""

import base64
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from coreface.errors import InputError, MissingExtraError
from coreface.evaluation.metrics import tar_at_far
from coreface.evaluation.metrics.proportions import badge
from coreface.evaluation.metrics.uncertainty import Interval
from coreface.evaluation.results import Provenance, VerificationResult
from coreface.evaluation.verification import Verification, verify
from coreface.reports.page import Page, write_page
from coreface.reports.plots import line_styles, training_panels
from coreface.reports.threshold_table import threshold_table

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects text and attributes, and checks that every element is closed in its turn."""

    def __init__(self, page):
        super().__init__()
        self.text, self.attributes, self.tags, self._open = "", [], [], []
        self.feed(page)
        self.close()
        assert self._open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in self._open  # elsewhere HTML takes it for an opening
        self.handle_starttag(tag, attributes)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if self._open and self._open[-1] == "style" else f" {data} "


def measure(seed=0, people=6, images=4, spread=0.9, **options):
    generator = np.random.default_rng(seed)
    identities = np.repeat(np.arange(people), images)
    embeddings = generator.normal(size=(people, 8))[identities]
    embeddings += spread * generator.normal(size=embeddings.shape)
    return verify(embeddings, identities, **{"replicates": 50, "worst": 3} | options)


def face(index):
    pixels = np.zeros((30, 20, 3), np.uint8)
    pixels[..., 0] = 200  # red
    pixels[..., 2] = index
    return pixels


def label(index):
    return f"s{index // 4} / {index % 4}.pgm"


def result_of(name, verification, **options):
    if not isinstance(verification, Verification):
        verification = measure(verification)
    options = {"statement": "All pairs.", "provenance": Provenance(name, "made here")} | options
    return VerificationResult(name=name, verification=verification, **options)


def compared(*results, **options):
    """A page that compares results, by their names or as they are."""
    return Page("t", (), tuple(result_of(*result) for result in results), compare=True, **options)


def history(contrastive=True):
    rows = []
    for step in range(10, 101, 10):
        row = {"kind": "step", "step": step, "epoch": step // 50 + 1, "lr": 0.1, "loss": 3.0, "classification": 2.0}
        row |= {"contrastive": 5.5, "positive": 0.9, "hardest_negative": 0.3, "margin": 0.6} if contrastive else {}
        rows.append(row)
    rows[3]["classification"] = None
    return [
        *rows,
        {"kind": "evaluation", "step": 50, "epoch": 1, "eer": 0.2},
        {"kind": "evaluation", "step": 100, "epoch": 2, "error": "the encoder has <collapsed>"},
    ]


@pytest.fixture(scope="module")
def page():
    return Page(
        title="Six strangers",
        summary=("First.", "Second."),
        results=(
            result_of("raw pixels", 1),
            result_of("twin", 2),
            result_of("CoReFace", 3, image=face, label=label),
        ),
        compare=True,
        history={"twin": history(contrastive=False), "CoReFace": history()},
        recipe="seed: 0\nstages:\n  - {from_epoch: 1}\n",
        environment={"torch": "2.6.0", "threads": 2, "git": {"dirty": True}},
        notes=("All pairs are compared.",),
    )


def shown_with(page, **fields):
    """The page without its history, and with other fields of its last result."""
    return replace(page, results=(*page.results[:2], replace(page.results[2], **fields)), history={})


def written(page, folder):
    write_page(page, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(page, tmp_path_factory):
    return written(page, tmp_path_factory.mktemp("page"))


def rows_of_rates(text):
    table = re.search(r'<table class="rates last">.*?</table>', text, re.DOTALL)[0]
    rows = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    return table, rows[1:]  # without the heads


def test_table_holds_the_numbers_of_each_verification(page, text):
    table, rows = rows_of_rates(text)
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["raw pixels", "twin", "CoReFace"]
    for shown, cells in zip(page.results, rows, strict=True):
        result = shown.verification
        rates = [(result.eer.eer, result.eer, result.eer_interval)]
        rates += [(rate.tar, rate, interval) for rate, interval in zip(result.tar, result.tar_intervals, strict=True)]
        for cell, (share, rate, interval) in zip(cells, rates, strict=True):
            if share is None:
                assert f"not resolvable with {result.impostor} impostors" in cell
                continue
            assert f"<b>{100 * share:.2f} %</b>" in cell
            assert f"<i>{100 * interval.low:.2f} – {100 * interval.high:.2f}</i>" in cell
            assert float(re.search(r'<data value="(.*?)">', cell)[1]) == rate.threshold
            assert float(re.search(r">FMR (.*?) %", cell)[1]) == pytest.approx(100 * rate.fmr, rel=5e-3)
        assert float(re.search(r"FNMR (.*?) %", cells[0])[1]) == pytest.approx(100 * result.eer.fnmr, rel=5e-3)
    assert [rate.resolvable for rate in result.tar] == [True, True, False]  # so both kinds of cell were seen


def test_page_says_on_what_was_measured_and_how_far_it_carries(text):
    text = Reader(text).text
    assert text.count("24 images of 6 identities make 36 genuine and 240 impostor pairs.") == 1  # the same for all
    assert "95 % interval: bootstrap over identities, 50 replicates, the threshold chosen again" in text
    assert "With only 6 identities the intervals are wide and approximate" in text
    assert "matches if and only if its cosine ≥ T" in text


def test_many_identities_are_not_warned_about_and_differing_sets_are_named(tmp_path):
    large, single = measure(people=50, images=2), measure(people=3, images=2)
    page = compared(("large", large), ("small", replace(single, single_image_identities=2)))
    text = Reader(written(page, tmp_path)).text
    assert "large: 100 images of 50 identities" in text
    assert "small: 6 images of 3 identities" in text
    assert "With only 50" not in text
    assert "With only 3" in text
    assert "impostor pairs only: 2." in text


def test_intervals_that_are_missing_partial_or_empty_are_said_to_be(tmp_path):
    without, failed = measure(replicates=0), Interval(0.1, 0.2, 0.9, replicates=1000, failed=7)
    results = {
        "without": without,
        "with a note": replace(without, interval_note="only <a few>"),
        "failed": replace(measure(), eer_interval=failed),
        "perfect": measure(spread=0.01),
    }
    page = compared(*results.items())
    sentences = "24 images of 6 identities make 36 genuine and 240 impostor pairs."
    table, without, noted, failed, perfect = Reader(written(page, tmp_path)).text.split(sentences)
    assert table.count("no interval") == 2 * (1 + 2)
    assert table.count("7 of 1,000 replicates failed") == 1
    assert "No intervals were requested." in without
    assert "Intervals: only <a few>." in noted
    assert "90 % interval" in failed
    assert "bootstrap over identities" in perfect


def test_rates_that_are_not_whole_never_look_so(tmp_path):
    result = measure()
    tar = replace(result.tar[0], tar=0.999999, fmr=1e-6)
    page = compared(("one", replace(result, tar=(tar,), tar_intervals=(None,))))
    cell = rows_of_rates(written(page, tmp_path))[1][0][1]
    assert "<b>99.9999 %</b>" in cell
    assert "FMR 0.000100 %" in cell


def test_fars_may_differ(tmp_path):
    results = measure(fars=(0.1,)), measure(fars=(0.05, 0.1))
    table, rows = rows_of_rates(written(compared(*zip("ab", results, strict=True)), tmp_path))
    assert re.findall(r"at FAR (.*?) %", table) == ["10", "5"]
    assert "not asked for" in rows[0][2]
    assert f"<b>{100 * results[1].tar[0].tar:.2f} %</b>" in rows[1][2]


def test_threshold_table_is_the_conservative_rule_with_what_stands_behind_it():
    result = measure(people=12, images=5)
    rows = re.findall(r"<tr>(.*?)</tr>", "".join(threshold_table(result)))[1:]
    assert len(rows) == 6
    for row, far in zip(rows, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), strict=True):
        assert f">{100 * far:g} %</th>" in row
        expected = tar_at_far(result.genuine_scores, result.impostor_scores, far)
        if not expected.resolvable:
            assert f"not resolvable with {result.impostor:,} impostor pairs" in row
            continue
        assert float(re.search(r'<data value="(.*?)">', row)[1]) == expected.threshold
        misses = sum(float(score) < expected.threshold for score in result.genuine_scores)
        assert f"<td>{100 * misses / result.genuine:.2f} %</td>" in row
        assert str(badge(round(expected.fmr * result.impostor), result.impostor)) in row
        assert str(badge(misses, result.genuine)) in row
    assert sum("not resolvable" in row for row in rows) == 3


@pytest.mark.parametrize("spread", [0.9, 0.01])
def test_hardest_pairs_show_their_faces_and_whether_they_are_mistakes(page, tmp_path, spread):
    result = measure(3, spread=spread)
    text = written(replace(page, results=(replace(page.results[2], verification=result),), history={}), tmp_path)
    cards = re.findall(r"<li><p><b>.*?</li>", text, re.DOTALL)
    pairs = [*result.worst.impostor, *result.worst.genuine]
    for position, (card, pair) in enumerate(zip(cards, pairs, strict=True)):
        assert f"<b>{pair.score:.4f}</b>".replace("-", "−") in card
        impostor = position < len(result.worst.impostor)
        wrong = (pair.score >= result.eer.threshold) == impostor
        assert wrong == (spread == 0.9)
        kind = "false match" if impostor else "false non-match"
        assert (f"<strong>{kind}</strong>" if wrong else "no mistake") in card
        assert re.findall("<figcaption>(.*?)</figcaption>", card) == [label(pair.first), label(pair.second)]
        pictures = re.findall(r'src="data:image/jpeg;base64,(.*?)"', card)
        for picture, index in zip(pictures, (pair.first, pair.second), strict=True):
            decoded = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
            assert decoded.shape == (30, 20, 3)
            np.testing.assert_allclose(decoded[15, 10], face(index)[15, 10], atol=4)
    matches, misses = round(result.eer.fmr * 240), round(result.eer.fnmr * 36)
    assert f"{matches} of 240 impostor pairs match and {misses} of 36 genuine pairs do not" in Reader(text).text


def test_large_images_are_made_small(page, tmp_path):
    tall = np.random.default_rng(0).integers(0, 255, (2000, 3, 3), dtype=np.uint8)
    text = written(shown_with(page, image=lambda index: tall), tmp_path)
    picture = re.search(r"base64,(.*?)\"", text)[1]
    assert cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR).shape == (224, 1, 3)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused_and_nothing_is_written(page, tmp_path, wrong):
    with pytest.raises(InputError, match="expected uint8"):
        write_page(shown_with(page, image=lambda index: wrong), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_all_text_is_escaped(page, tmp_path):
    attack = "\"'><script>alert(1)</script>&amp; $x_1$ {0}"
    hostile = replace(
        page,
        title=attack,
        summary=(attack,),
        results=(*page.results[:2], replace(page.results[2], name=attack, label=lambda index: attack)),
        history={attack: history(), "other": history()},
        recipe=attack,
        environment={attack: attack, "nested": [attack]},
        notes=(attack,),
    )
    text = written(hostile, tmp_path)
    assert "<script" not in text
    reader = Reader(text)
    # title twice, summary, row head, two legends, the title of its panel, the error, recipe, environment twice, note
    assert reader.text.count(attack) >= 12
    assert any(name == "alt" and value == attack for _, name, value in reader.attributes)
    assert "the encoder has <collapsed>" in reader.text


def test_text_that_is_no_unicode_does_not_stop_the_report(page, tmp_path):
    assert "face\\udcff.jpg" in written(shown_with(page, label=lambda index: "face\udcff.jpg"), tmp_path)


def test_page_needs_nothing_from_outside(text):
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.tags)
    for _, name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith(("data:image/jpeg;base64,", "#"))
        assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", value or ""))
    identifiers = [value for _, name, value in reader.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_curves_are_those_that_have_data(page, text, tmp_path):
    def titles(text):
        return re.findall(r'<figure class="panel"><h3>(.*?)</h3>', text)

    always = ["ROC", "DET", "Scores: CoReFace"]
    cosines = "Cosines of the contrastive term: CoReFace"
    assert titles(text) == [*always, "Classification loss", cosines, "Equal error rate", "Learning rate"]
    assert "The contrastive loss itself is not drawn" in text
    assert titles(written(replace(page, history={}), tmp_path)) == always
    only = [{"kind": "evaluation", "step": 9, "eer": 0.1}, {"kind": "step", "step": 1, "lr": None}, {}]
    text = written(replace(page, history={"run": only, "empty": []}), tmp_path)
    assert titles(text) == [*always, "Equal error rate"]
    assert "The contrastive loss itself is not drawn" not in text


def test_a_resumed_run_counts_its_later_rows_and_a_long_one_is_thinned():
    def drawn(rows):
        return training_panels({"run": rows}, line_styles(["run"], "run"))

    def row(step, loss):
        return {"kind": "step", "step": step, "classification": loss}

    once = [row(step, 5.0 - step) for step in range(4)]
    assert drawn([row(2, 99.0), row(3, 99.0), *once]) == drawn(once)
    noise = np.random.default_rng(0).normal(size=3000)
    (panel,) = drawn([row(step, float(loss)) for step, loss in enumerate(noise)])
    assert "At most 1000 evenly spaced rows" in panel.caption
    assert drawn(once)[0].caption == ""
    assert len(panel.svg) < 40_000


def test_smallest_page(tmp_path):
    result = verify(np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]]), np.array([0, 0, 1]), replicates=0)
    reader = Reader(written(compared(("one", result)), tmp_path))
    assert "img" not in reader.tags
    assert "image 0" in reader.text
    for heading in ("Training", "Recipe", "Environment", "Notes"):
        assert heading not in reader.text


def test_an_encoder_close_to_collapse_is_drawn(tmp_path):
    embeddings = 1 + 1e-7 * np.random.default_rng(0).normal(size=(6, 4))
    result = verify(embeddings, np.array([0, 0, 1, 1, 2, 2]), replicates=0)
    assert "Scores: one" in written(compared(("one", result)), tmp_path)


def test_same_input_gives_the_same_bytes(page, text, tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "red"}):  # settings of the user's
        again = written(page, tmp_path)
        assert mpl.rcParams["font.size"] == 30
    assert again == text


def test_nothing_or_two_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"names \[\]"):
        Page("t", (), ())
    with pytest.raises(InputError, match="all different"):
        compared(("a", measure()), ("a", measure()))


def test_missing_matplotlib_is_named_with_its_extra(page, tmp_path, monkeypatch):
    for module in ("matplotlib", "matplotlib.style", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'coreface\[report\]'"):
        write_page(page, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_neither_matplotlib_at_import_nor_pyplot_ever(tmp_path):
    program = """
import sys
from pathlib import Path
import numpy as np
from coreface.reports.plots import line_styles, training_panels
from coreface.reports.page import Page, write_page
from coreface.evaluation.results import Provenance, VerificationResult
from coreface.evaluation.verification import verify
assert "matplotlib" not in sys.modules
result = verify(np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]]), np.array([0, 0, 1]), replicates=0)
provenance = Provenance("one", "made here")
result = VerificationResult(name="one", statement="All pairs.", provenance=provenance, verification=result)
write_page(Page("t", results=(result,)), Path(sys.argv[1]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "report.html")], check=True)


def test_a_history_alone_makes_a_page_of_curves(page, tmp_path):
    history = {"run": [{"kind": "step", "step": step, "classification": 30 / step, "lr": 0.1} for step in range(1, 9)]}
    text = written(Page("t", (), (), history=history, recipe="seed: 1"), tmp_path)
    assert "Classification loss" in text
    assert "<h2>Recipe</h2>" in text
    assert "Error rates" not in text
    assert "Hardest pairs" not in text
