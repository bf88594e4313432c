"""Tables: the same cells in text, HTML and Markdown, and nothing that a cell holds breaks out of it."""

import pytest

from cookbook.display.tables import OK, WARNING, Bold, Code, Table, Verdict, as_html, as_text, verdicts

TABLE = Table(("answer", "n"), [("a|b <i>", 1), (Bold("always"), Code("x\ny")), (Bold(""), "")], "constant <answers>")


def test_text_is_aligned_and_plain():
    assert repr(Table(("answer", "n"), [("A", 10), (Bold("always"), Code("x"))])).splitlines() == [
        "answer  n", "A       10", "always  x",
    ]  # fmt: skip
    assert repr(TABLE).startswith("constant <answers>\nanswer")


def test_html_escapes_what_it_shows():
    page = TABLE._repr_html_()
    assert page.startswith("<h4>constant &lt;answers&gt;</h4><table>") and "<i>" not in page
    assert page.count("<tr>") == 4 and ">a|b &lt;i&gt;</td>" in page
    assert ">always</b></td>" in page and "<code>x</code><br><code>y</code>" in page and "<b></b>" not in page


def test_markdown_keeps_bars_inside_their_cell():
    title, _, *lines = TABLE.markdown().splitlines()
    assert title == "**constant <answers>**" and lines[:2] == ["| answer | n |", "|---|---|"]
    assert lines[2] == "| a\\|b <i> | 1 |" and lines[3:] == ["| **always** | `x`<br>`y` |", "|  |  |"]
    assert Table(("a",), [(Code("x"),), (Bold("y"),)]).markdown().splitlines()[2:] == ["| `x` |", "| **y** |"]


@pytest.mark.parametrize("rows", [[], [("", "")]])
def test_an_empty_table_shows_its_head(rows):
    assert repr(Table(("a", "b"), rows)).splitlines()[0] == "a  b"


def test_a_fix_stands_below_what_it_mends_and_in_code_beside_it():
    rows = [(OK, "git", "2.1", ""), (WARNING, "redis-server", "not <found>", "first\nsecond")]
    assert as_text(rows).splitlines() == [
        "ok       git           2.1",
        "warning  redis-server  not <found>",
        "                       -> first",
        "                       -> second",
    ]
    page = as_html(("", "checked", "found", "mend it with"), rows)
    assert ">ok</td>" in page and "<b>warning</b>" in page and "not &lt;found&gt;" in page
    assert "<code>first</code><br><code>second</code>" in page
    assert "mend it with" in page and "mend it with" not in as_html(("", "checked", "found", "mend it with"), rows[:1])


def test_a_verdict_says_why_and_what_to_do_only_where_it_does_not_hold(capsys):
    found = [Verdict(words, holds, "why", "do") for words, holds in (("a", True), ("b", False), ("c", None))]
    verdicts(found)
    assert capsys.readouterr().out.splitlines() == [
        "held     a",
        "NOT held b", "         maybe: why", "         try: do",
        "open     c", "         maybe: why", "         try: do",
    ]  # fmt: skip
    assert str(Verdict("d", False)) == "NOT held d"


def test_only_what_does_not_hold_ends_a_strict_notebook():
    verdicts([Verdict("a", True), Verdict("c", None)], strict=True)
    with pytest.raises(AssertionError, match=r"^b; d$"):
        verdicts([Verdict("a", True), Verdict("b", False), Verdict("d", False)], strict=True)
