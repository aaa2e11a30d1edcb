"""The page of a run: whole, self-contained, and nothing of the run's text taken for HTML."""

import html.parser
import json

import pytest

from mrl_jax import charts, report, results
from mrl_jax.nesting import Nesting

CONFIG = {
    "model": {"name": "vit", "variant": "mu/8"},
    "data": {"name": "array_record:<b>birds"},
    "nesting": {"dims": [4, 8], "weights": []},
    "head": "mrl",
    "total_steps": 9,
    "batch_size": 3,
    "seed": 5,
}


class Page(html.parser.HTMLParser):
    """What a browser would see: every tag with its attributes, all text, tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def workdir(tmp_path):
    values = {"top1@4": 0.25, "top1@6": 0.5, "flops@4": 2e6, "<script>alert(1)</script>@4": 0.5}
    details = {"dims": [4, 8], "agreement": [[1.0, 0.75], [0.75, 1.0]], "label": "</pre><script>x</script>"}
    for name, more in (("knn", {"knn": details}), ("<i>x", None)):
        written = {name: values}
        results.write(tmp_path, written, step=9, nesting=Nesting((4, 8)), head=None, command="run '<x>'", details=more)
    results.plot(tmp_path / "plots" / "knn-accuracy.png", {"knn": {"top1@4": 0.25, "top1@8": 0.5}}, Nesting((4, 8)))
    results.plot(tmp_path / "plots" / "other.png", {"knn": {"top1@4": 0.25, "top1@8": 0.5}}, Nesting((4, 8)))
    lines = [
        {"step": s, "train/loss@4": 9.0 / s, "train/loss@16": 1.0 / s, "train/lr": None, "<u>@4": s} for s in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_page_shows_all_there_is_and_needs_nothing_else(workdir):
    page = Page(report.refresh(workdir).read_text())
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert {"script", "link", "i ", "b", "u"}.isdisjoint(tags)
    assert all(v.startswith("data:image/png") for _, a in page.tags for k, v in a.items() if k == "src")
    assert all(v.startswith("#") for _, a in page.tags for k, v in a.items() if k == "href")
    assert tags.count("img") == 2
    for text in ("25.00", "2,000,000", "~6", "<script>alert(1)</script>, %", "run '<x>'", "array_record:<b>birds"):
        assert text in page.text, text
    assert "agreement" in page.text
    assert page.text.count("75.00") == 0, "a matrix is shown as it is"
    assert page.text.count("0.75") >= 2
    assert tags.count("svg") == 2, "one for the loss of each dim, one for <u>, none for what was never measured"
    assert page.text.index("train/loss of each dim") < page.text.index("416"), "legend in the order of the dims"
    nav = (workdir / "report.html").read_text().partition("<nav>")[2].partition("</nav>")[0]
    assert nav.count("</a> <a") == nav.count("<a") - 1 > 0, "a line of links can only be broken at a space"
    targets = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert targets == [a["id"] for tag, a in page.tags if tag == "h2"]


def test_a_picture_of_any_name_stands_with_the_result_that_recorded_it(workdir):
    assert "More plots" in report.write(workdir, None).read_text()
    about = {"step": 9, "nesting": Nesting((4, 8)), "head": None, "command": "again"}
    results.write(workdir, {"knn": {"top1@4": 0.25}}, figures=["other"], **about)
    page = report.write(workdir, None).read_text()
    assert "More plots" not in page
    assert 0 < page.index(">knn</h2>") < page.index('alt="other"') < page.index("<pre>again</pre>")


def test_results_of_brought_features_get_a_page_too_without_what_only_a_run_has(workdir):
    for name in ("config.json", "metrics.jsonl"):
        (workdir / name).unlink()
    page = Page(report.refresh(workdir).read_text())
    headings = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert headings == ["<i>x", "knn", "More-plots"]
    assert "25.00" in page.text
    assert {"figure", "svg"}.isdisjoint(tag for tag, _ in page.tags)


def test_ticks_hold_the_values_between_round_numbers():
    for low, high in ((0.013, 0.97), (5, 5), (-3, 1200), (0, 0), (1e-9, 2e-9)):
        ticks = charts._ticks(low, high)
        assert ticks[0] <= low <= high <= ticks[-1] + 1e-12
        assert 2 <= len(ticks) <= 8


def test_darker_cells_are_larger_numbers_of_their_scale():
    table = charts.heat_table("dim", ["a", "b"], [("x", [1.0, 3.0]), ("y", [2.0, None])])
    shades = [float(part.split(")")[0].split(",")[-1]) for part in table.split("rgba")[1:]]
    assert shades[1] > shades[2] > shades[0]
    alone = charts.heat_table("dim", ["a", "b"], [("x", [1.0, 3.0]), ("y", [200.0, 100.0])], shared=False)
    assert [float(p.split(")")[0].split(",")[-1]) for p in alone.split("rgba")[1:]] == [0.04, 0.46, 0.46, 0.04]
