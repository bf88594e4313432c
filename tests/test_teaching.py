"""The notebooks teach: short cells of prose, a drawn figure, exercises with solutions, links that lead somewhere.

`python tests/teaching.py` prints the count; `pytest -s tests/test_teaching.py -k count` too.
"""

from statistics import median

import pytest
import teaching
from teaching import INDEX, NOTEBOOKS, PAGES, page

LONG = 30  # cells: a longer notebook opens with its contents
books = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@books
def test_prose_comes_in_short_cells(path):
    words = page(path).words
    assert max(words) <= teaching.LONGEST and median(words) <= teaching.USUAL


@books
def test_a_reader_has_exercises_a_figure_and_more_to_read(path):
    book = page(path)
    assert len(book.exercises) >= 2 and all(book.exercises)
    assert [address for address in book.addresses("image") if address.endswith(".svg")]
    assert len({address for address in book.addresses("link") if address[0] != "#"}) >= 3


@books
def test_a_reader_is_told_what_can_wait_and_each_word_is_explained_once(path):
    book = page(path)
    opening = " ".join(cell["source"] for cell in book.cells[:2])
    assert "*optional*" in opening and "glossary.md)" in opening
    words = [address for address in book.addresses("link") if "glossary.md#" in address]
    assert len(words) == len(set(words))


@books
def test_a_long_notebook_opens_with_its_contents(path):
    book = page(path)
    sections = {name for name, level in book.anchors.items() if level == 2}
    assert len(book.cells) <= LONG or len(book.contents & sections) > len(sections) / 2


@pytest.mark.parametrize("path", [*NOTEBOOKS, INDEX, *PAGES], ids=lambda path: path.stem)
def test_links_lead_somewhere_and_pictures_say_what_they_show(path):
    assert not page(path).astray
    assert not page(path).silent


def test_the_glossary_is_found_from_where_one_begins():
    assert "glossary.md" in page(INDEX).addresses("link")
    assert "notebooks/glossary.md" in page(teaching.ROOT / "README.md").addresses("link")


def test_the_count(capsys):
    with capsys.disabled():
        print(f"\n{teaching.table()}")


# ---- the count itself -----------------------------------------------------------------------------------------------

TEXT = """## What `it` is

Four words, [a link](#What-it-is) and [another](gone.md); <img src="x.svg"> and ![ ](y.svg) and ![a road](z.svg).

| a | table |
|---|---|
| counts | too |

```
nor is code
```
"""


def test_what_is_counted(tmp_path):
    for name in ("x.svg", "z.svg"):
        (tmp_path / name).touch()
    made = tmp_path / "made.md"
    made.write_text(TEXT)
    found = teaching.Page(made)
    assert found.words == [3 + 9 + 4]
    assert found.addresses("link") == ["#What-it-is", "gone.md"]
    assert found.addresses("image") == ["y.svg", "z.svg", "x.svg"]
    assert found.anchors == {"what-it-is": 2}
    assert found.astray == ["#What-it-is", "gone.md", "y.svg"]  # on a Markdown page names are in small letters
    assert found.silent == ["y.svg", '<img src="x.svg">']
