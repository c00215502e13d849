"""`guard report`: one page that anybody can open, whatever hostile text it contains."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from testbed import report_scene
from testbed.browser import CHROMIUM, Browser

from conntrackd_guard.cli.commands import report
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.main import main
from conntrackd_guard.cli.render.console import local
from conntrackd_guard.cli.render.report import page as view
from conntrackd_guard.cli.render.report.chart import Span
from conntrackd_guard.core.model import Raise
from conntrackd_guard.core.text import printable
from conntrackd_guard.history.database import History
from conntrackd_guard.history.details import DecisionDetail, detail
from conntrackd_guard.history.series import Point
from conntrackd_guard.host.paths import Paths

SPAN = ["--since", f"@{report_scene.BEGIN}", "--until", f"@{report_scene.END}", "--no-dry-run"]
TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "p", "br", "span", "main", "section", "dl",
    "div", "dt", "dd", "figure", "figcaption", "strong", "svg", "path", "rect", "ul", "li", "table", "caption", "thead", "tr",
    "th", "tbody", "td", "details", "summary", "code",
}  # fmt: skip


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a busy history and its report, `report.html`."""
    root = tmp_path_factory.mktemp("scene")
    report_scene.write(Paths(root))
    assert main(["report", *SPAN, "-o", str(root / "report.html")], Paths(root)) == Exit.DONE
    return root


@pytest.fixture(scope="module")
def page(scene: Path) -> str:
    """The page's source."""
    return (scene / "report.html").read_text()


@pytest.fixture(scope="module")
def browser(scene: Path) -> Iterator[Browser]:
    """A browser that shows the page. Without one the calling test is skipped; in CI it fails."""
    if CHROMIUM is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("apt-get install chromium (scripts/test does)")
    with Browser() as opened:
        opened.open(scene / "report.html")
        yield opened


def test_the_page_is_complete(page: str) -> None:
    """Decisions with their calculations and results, and the figures of the tables."""
    for text in (
        "Raised 262,144 → 393,216",
        "average chain",
        "Packets are still dropped after the raise",
        "Drops ended 0.4 s after the raise",
        "8,100 packets",
    ):
        assert text in page
    assert page.count("<details>") == 6
    assert all(str(escape(printable(hostile))) in page for hostile in report_scene.HOSTILE)


def test_nothing_from_outside_becomes_an_element(page: str) -> None:
    """Names and kernel messages stay text: no foreign tag, no handler, no address."""
    elements = Elements(page).found
    assert {tag for tag, _ in elements} <= TAGS
    names = {name for _, attributes in elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "action", "srcset"}
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in elements)
    assert not [char for char in page.replace("\n", "") if not char.isprintable()]


def test_links_and_labels_lead_somewhere(page: str) -> None:
    """Each mark of the chart leads to its row, and no id is there twice."""
    elements = [attributes for _, attributes in Elements(page).found]
    ids = Counter(attributes["id"] for attributes in elements if "id" in attributes)
    assert set(ids.values()) == {1}
    targets = {(attributes.get("href") or "")[1:] for attributes in elements if "href" in attributes}
    labels = {attributes["aria-labelledby"] for attributes in elements if "aria-labelledby" in attributes}
    assert len(targets) == 7
    assert targets | labels <= ids.keys()


def test_the_page_shows_the_diagnosis_and_what_filled_the_table(page: str) -> None:
    """The diagnosis is visible; owner, shares and commands unfold, escaped like all other text."""
    row = page.partition('id="d2"')[2].partition("</tr>")[0]
    shown, _, folded = row.partition("What filled the table, and what to do")
    assert "Diagnosis: flood: Most connections are unanswered" in shown
    assert "<code>ip netns exec web sysctl -w" in folded
    assert f"process {escape(report_scene.HOSTILE[1])} (7)" in folded
    assert "<dt>100.0 %</dt><dd>    393,216  tcp SYN_SENT</dd>" in folded


def a_report(points: Sequence[Point] = (), entries: Sequence[DecisionDetail] = (), **more: Any) -> str:
    """Return the page of a report of 100 s with these."""
    plain: dict[str, Any] = {
        "host": "<i>", "version": "1", "made_seconds": 0.0, "span": Span(since=0.0, until=100.0, step=10),
        "held": [(point.at, point.count) for point in points],
        "counts": Counter(decisions=len(entries)),
    }  # fmt: skip
    return view.page(view.Report(**plain | more, points=points, entries=entries))


def test_the_host_may_be_called_anything() -> None:
    """Its name is escaped in title and heading."""
    assert a_report().count("&lt;i&gt;</") == 2
    assert "There is no time series of this time" in a_report()


def test_a_host_without_a_limit_has_a_report_too() -> None:
    """0 means unlimited, so there is no share to show."""
    text = a_report([Point(at=10, namespace=1, label="initial", limit=0, count=7)])
    assert "The limit, at 0 (unlimited) at both ends, and the entries of the only table seen: at most 7" in text
    assert "<dt>Limit at the end</dt><dd>0 (unlimited)</dd>" in text


def test_no_namespace_passes_for_another() -> None:
    """One called `others` keeps its number; a name of 4 KB is shortened."""
    names = ["others", "x" * 4096]
    points = [Point(at=10, namespace=7 + n, label=name, limit=9, count=9 - n) for n, name in enumerate(names)]
    text = a_report([*points, Point(at=10, namespace=0, label="others", limit=9, count=99)])
    assert re.findall(r'role="rowheader">([^<]*)<', text) == ["others", "others (netns 7)", f"{63 * 'x'}… (netns 8)"]
    assert "<dt>Highest use of a table</dt><dd>100 %</dd>" in text


def test_a_raise_within_a_step_is_no_peak_of_the_limit(scene: Path) -> None:
    """The series has the highest limit of a step; drawn from its start, the line would fall before the raise."""
    with History(Paths(scene).history, mode="reader") as history:
        found = detail(history, 1)
    assert found is not None
    at = found.row.at_seconds
    points = [Point(at=int(at) - 5 + n, namespace=1, label="initial", limit=393_216, count=1, step=10) for n in (0, 10)]
    text = a_report(points, [found], span=Span(since=at - 10, until=at + 90, step=10))
    (line,) = re.findall(r'<path class="bound" d="([^"]{20,})"', text)
    heights = [float(y) for y in re.findall(r"[V ]([0-9.]+)", line)]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[-1] == 0.0


def test_each_budget_is_drawn_in_its_own_time(scene: Path) -> None:
    """After a change of the settings the entries of before are compared with the budget of before."""
    with History(Paths(scene).history, mode="reader") as history:
        first, second = detail(history, 1), detail(history, 2)
    assert first is not None
    assert second is not None
    assert isinstance(first.record.decision, Raise)
    at = [first.row.at_seconds, second.row.at_seconds]
    halved = replace(first.record.decision.arithmetic, budget_bytes=100 << 20, bytes_per_entry=512, bucket_bytes=0)
    whole = replace(halved, budget_bytes=200 << 20, bytes_per_entry=1024)
    entries = [
        replace(found, record=replace(found.record, decision=replace(first.record.decision, arithmetic=arithmetic)))
        for found, arithmetic in ((second, whole), (first, halved))
    ]
    span = Span(since=at[0] - 100, until=at[1] + 100, step=1)
    points = [Point(at=int(at[0]), namespace=7, label="web", limit=1, count=1)]
    held = [(at[0] - 50, 102_400), (at[0] + 50, 102_400), (at[1] + 50, 102_400)]
    text = a_report(points, entries, span=span, held=held)
    chart = text.partition("Memory of the tables.")[2]
    assert "At most 100 MiB of a budget of 200 MiB, at 1024 bytes an entry. The budget was 100 MiB to 200 MiB." in chart
    (budget,) = re.findall(r'<path class="bound" d="([^"]{20,})"', chart.partition("</figure>")[0])
    assert budget == f"M0.0 50.0h1H{span.x(at[1]):.1f}V0.0H1000"
    (used,) = re.findall(r'<path class="line c0" d="([^"]{20,})"', chart.partition("</figure>")[0])
    assert re.findall(r" ([0-9.]+)(?:h1)?", used) == ["75.0", "75.0", "50.0"]


def test_a_page_begins_with_the_history(tmp_path: Path, scene: Path) -> None:
    """A guard that began an hour ago has no day to show; one that was stopped has."""
    shown = {}
    for since in (report_scene.BEGIN - 86400, report_scene.BEGIN + 60):
        output = tmp_path / f"{since}.html"
        span = ["--since", f"@{since}", "--until", f"@{report_scene.END}", "--no-dry-run"]
        assert main(["report", *span, "-o", str(output)], Paths(scene)) == Exit.DONE
        shown[since] = output.read_text()
    for since, begins in zip(shown, (report_scene.BEGIN, report_scene.BEGIN + 60), strict=True):
        assert f"<p>{local(begins)} to {local(report_scene.END)}<br>" in shown[since]


def test_a_full_table_shows_although_the_limit_rose_at_once(scene: Path) -> None:
    """Compared with the limit after the raise, the same entries are two thirds."""
    with History(Paths(scene).history, mode="reader") as history:
        found = detail(history, 1)
    assert found is not None
    points = [Point(at=10, namespace=7, label="web", limit=393_216, count=262_144)]
    assert "<dt>Highest use of a table</dt><dd>100 %</dd>" in a_report(points, [found])


def test_decisions_beyond_the_page_are_counted(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures cover all decisions, the rows only the last ones."""
    monkeypatch.setattr(report, "_MOST_DECISIONS", 2)
    output = tmp_path / "short.html"
    assert main(["report", *SPAN, "-o", str(output)], Paths(scene)) == Exit.DONE
    text = output.read_text()
    assert "These are the last 2 of 6: choose a shorter time" in text
    assert text.count('<tr role="row" id="d') == 2
    assert "<dt>Raises</dt><dd>5</dd>" in text
    assert "<dt>Drops continued after</dt><dd>1 of 5 raises</dd>" in text


def test_links_and_devices_are_written_to_and_stay(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with `-o /dev/stdout` and `-o /dev/null`, but on links of our own: root must not lose the real ones."""
    links = {"stdout": "/proc/self/fd/1", "null": "/dev/null", "page": "real.html", "dangling": "made.html"}
    for name, target in links.items():
        link = tmp_path / name
        link.symlink_to(target)
        if name == "page":
            link.write_text("before")
        capfd.readouterr()
        assert main(["report", *SPAN, "-o", str(link)], Paths(scene)) == Exit.DONE
        assert link.is_symlink()
        assert capfd.readouterr().out.endswith("</html>\n") is (name == "stdout")
    for name in ("real.html", "made.html"):
        assert (tmp_path / name).read_text().endswith("</html>\n")


def test_an_empty_time_has_a_page_too(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page states that there is no decision."""
    output = scene / "empty.html"
    assert (
        main(["report", "--since", "@1000", "--until", "@2000", "--no-dry-run", "-o", str(output)], Paths(scene))
        == Exit.DONE
    )
    assert "No decision was made in this time." in output.read_text()
    assert str(output) in capsys.readouterr().err
    assert output.stat().st_mode & 0o007 == 0


def test_a_report_that_is_impossible_fails(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No history, a time that ends before it begins, a missing directory."""
    output = ["--no-dry-run", "-o", str(tmp_path / "none/r.html")]
    assert main(["report", *output], Paths(tmp_path)) == Exit.NO
    assert main(["report", "--since", "@9", "--until", "@5", *output], Paths(scene)) == Exit.NO
    assert main(["report", *output], Paths(scene)) == Exit.FAILED
    assert "none/r.html" in capsys.readouterr().err


def test_the_browser_requests_and_reports_nothing(browser: Browser) -> None:
    """One file, no network, no script that ran, no message in the console."""
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [address.split("/")[-1] for address in asked] == ["report.html"]
    assert [
        event for event in browser.events if event.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}
    ] == []
    assert browser.value("document.title").startswith("Connection tracking on ")
    assert browser.value("document.scripts.length + document.images.length") == 0


@pytest.mark.parametrize("width", [320, 375, 768, 1400])
def test_no_page_is_wider_than_its_window(browser: Browser, width: int) -> None:
    """A phone scrolls vertically only, also with every calculation open."""
    browser.media()
    browser.size(width, 800)
    browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.value("document.documentElement.scrollWidth") <= width
    narrow = "[...document.querySelectorAll('td, dd')].filter(e => e.textContent && e.getBoundingClientRect().width < 20).length"
    assert browser.value(narrow) == 0
    browser.value("document.querySelectorAll('details').forEach(d => d.open = false)")


_CONTRAST = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = rgb(c).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  let worst = 21;
  for (const e of document.querySelectorAll('main *, header *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return worst;
})()"""


@pytest.mark.parametrize(("kind", "scheme"), [("", "light"), ("", "dark"), ("print", "light"), ("print", "dark")])
def test_all_text_can_be_read_in_light_and_dark_and_on_paper(browser: Browser, kind: str, scheme: str) -> None:
    """A contrast of 4.5 (WCAG AA) everywhere; paper is white in dark mode too."""
    browser.size(1200, 800)
    browser.media(kind, scheme)
    assert browser.value(_CONTRAST) >= 4.5
    dark = scheme == "dark" and not kind
    assert (browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") is not dark
    browser.media()


def test_paper_shows_every_calculation(browser: Browser) -> None:
    """On paper nothing can be unfolded."""
    browser.media("print")
    shown = "[...document.querySelectorAll('details .sum')].filter(e => e.checkVisibility({contentVisibilityAuto: true})).length"
    assert browser.value(shown) == 10
    browser.media()
    assert browser.value(shown) == 0


def test_the_keyboard_reaches_everything(browser: Browser) -> None:
    """Tab goes to the skip link, every mark and every calculation, each with a visible ring; Enter opens a calculation."""
    browser.value("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    reached, rings = [], []
    for _ in range(14):
        browser.key("Tab")
        reached.append(browser.value("document.activeElement.localName"))
        rings.append(browser.value("getComputedStyle(document.activeElement).outlineStyle"))
    assert reached == ["a"] * 8 + ["summary"] * 6
    assert set(rings[1:]) == {"solid"}
    browser.key("Enter")
    assert browser.value("document.querySelectorAll('details[open]').length") == 1
    browser.key("Enter")


@pytest.mark.parametrize("width", [375, 1200])
def test_a_screen_reader_gets_tables_names_and_headings(browser: Browser, width: int) -> None:
    """A table shown as blocks is still announced as a table; each chart and each link has a name."""
    browser.size(width, 800)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    announced = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    roles = Counter(role for role, _ in announced)
    assert (roles["table"], roles["heading"], roles["main"]) == (2, 4, 1)
    assert roles["row"] == 2 + 6 + 6
    assert roles["rowheader"] == 6 + 6
    named = {"link", "image", "table", "region", "DisclosureTriangle"}
    assert [node for node in announced if node[0] in named and not node[1].strip()] == []
    charts = [name for role, name in announced if role == "image"]
    assert [name.partition(".")[0] for name in charts] == [
        "Use against limit",
        "Drops and evictions",
        "Memory of the tables",
    ]
    assert "8,100 packets dropped" in charts[1]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_link_in_a_shared_folder_is_not_followed(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    """Whoever else may write there could have made it, and root would replace what it leads to."""
    (tmp_path / "theirs").write_text("keep")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    (shared / "page.html").symlink_to(tmp_path / "theirs")
    (tmp_path / "own.html").symlink_to(shared / "page.html")
    for output in (shared / "page.html", tmp_path / "own.html"):
        assert main(["report", *SPAN, "-o", str(output)], Paths(scene)) == Exit.FAILED
        assert "it is a link in a folder that others may write to" in capsys.readouterr().err
    assert (tmp_path / "theirs").read_text() == "keep"
    (shared / "page.html").unlink()
    assert main(["report", *SPAN, "-o", str(shared / "page.html")], Paths(scene)) == Exit.DONE
