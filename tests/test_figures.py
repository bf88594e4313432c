"""The notebooks' figures: as the script draws them, readable in light and dark, inside their frame, shown once."""

import importlib.util
import json
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.path import Path as Polygon

from cookbook.runs import ROOT

FOLDER = ROOT / "notebooks" / "figures"
DRAWN = sorted(FOLDER.glob("*.svg"))
RESULT = "result"  # the README's own
OWN = {"overlap": "av_3d_grounding"}  # those of one recipe; the others' are those of the notebooks
# widths of a character in ems, those of wide fonts (DejaVu, Verdana), so that narrower ones have room
WIDTHS = {"code": 0.61, "head": 0.6, "bold": 0.6, "": 0.56}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("figures_script", FOLDER / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=DRAWN, ids=lambda path: path.stem)
def root(request):
    return ElementTree.fromstring(re.sub(' xmlns="[^"]*"', "", request.param.read_text(encoding="utf-8"), count=1))


def looks(root) -> list[dict[str, str]]:
    """Returns the fill of each class, in light and in dark."""
    return [dict(re.findall(r"\.([\w-]+)\{fill:(#\w+)\}", part)) for part in root.find("style").text.split("@media")]


def classes(element) -> list[str]:
    return element.get("class", "").split()


def place(text) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of a line of text, as wide as a wide font would make it."""
    size = 20 if "head" in classes(text) else 14 if {"small", "code"} & {*classes(text)} else 16
    kind = next(name for name in WIDTHS if name in classes(text) or not name)
    width = len(text.text) * size * WIDTHS[kind]
    left = float(text.get("x")) - {None: 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
    return left, float(text.get("y")) - 0.8 * size, left + width, float(text.get("y")) + 0.25 * size


def outline(shape) -> Polygon | None:
    """Returns what a filled shape covers, None where it is no ground to write on."""
    if shape.get("fill") == "none" or shape.tag not in ("rect", "path"):
        return None
    if shape.tag == "path":
        return Polygon([tuple(map(float, pair.split())) for pair in re.split("[MLZ]", shape.get("d")) if pair])
    x, y, width, height = (float(shape.get(key)) for key in ("x", "y", "width", "height"))
    return Polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def grounds(root) -> list[tuple]:
    """Returns each text with the shape that it stands on: the last one before it that lies below its middle."""
    found, before = [], []
    for element in root:
        if element.tag == "text":
            left, top, right, bottom = place(element)
            middle = (left + right) / 2, (top + bottom) / 2
            found.append((element, [shape for shape, area in before if area.contains_point(middle)][-1]))
        elif (area := outline(element)) is not None:
            before.append((element, area))
    return found


def luminance(color: str) -> float:
    """Returns the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


def test_git_holds_what_the_script_draws(script):
    assert {path.stem for path in DRAWN} == script.FIGURES.keys()
    for name, draw in script.FIGURES.items():
        assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == draw()[2], f"{name}: make figures"


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_a_figure_is_small_and_asks_for_nothing(path):
    words = path.read_text(encoding="utf-8")
    assert len(words.encode()) < 20_000
    assert not re.search(r"<script|@import|url\(|\son\w+=", words)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', words))
    assert re.findall(r"https?://[^\"]*", words) == ["http://www.w3.org/2000/svg"]


def test_a_figure_says_what_it_shows(root):
    assert root.get("role") == "img" and root.get("viewBox").startswith("0 0 ")
    assert root.findtext("title") and len(root.findtext("desc")) > 80


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(root, scheme):
    fills = looks(root)[scheme == "dark"]
    for text, ground in grounds(root):
        words, below = (fills[next(name for name in classes(e) if name in fills)] for e in (text, ground))
        dark, bright = sorted(map(luminance, (words, below)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{text.text!r}: {words} on {below}"


def test_words_stay_in_the_frame_and_in_their_box(root):
    for text, ground in grounds(root):
        left, top, right, bottom = place(text)
        area, margin = outline(ground).get_extents(), 12 if ground is root.find("rect") else 0
        assert area.x0 + margin <= left and right <= area.x1 - margin, f"{text.text!r} is wider than what it stands on"
        assert area.y0 <= top and bottom <= area.y1, f"{text.text!r} is higher than what it stands on"


def test_words_do_not_cover_each_other(root):
    for (one, a), (other, b) in combinations([(text.text, place(text)) for text in root.iter("text")], 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} and {other!r} overlap"


def test_each_figure_is_shown_once_with_its_text_alternative(script):
    shown = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                shown += re.findall(r"!\[([^\]]*)\]\(figures/(\w+)\.svg\)", "".join(cell["source"]))
    assert sorted(name for _, name in shown) == sorted(script.FIGURES.keys() - {RESULT, *OWN})
    for name, recipe in OWN.items():
        words = (ROOT / f"notebooks/recipes/{recipe}.ipynb").read_text(encoding="utf-8")
        shown += re.findall(rf"!\[([^\]]*)\]\(\.\./figures/({name})\.svg\)", words)
    readme = re.findall(
        r"!\[([^\]]*)\]\(notebooks/figures/(\w+)\.svg\)", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert RESULT in dict(map(reversed, readme))
    for told, name in shown + readme:
        assert told == script.FIGURES[name]()[1], name


def test_the_result_is_that_of_the_newest_session(script):
    log = "```\n$ make tutorial\nbase   20.0 %  [10.0–30.0]  of 7 questions on unseen clips; guessing: 50.0 %\n"
    log += (
        "RL    100.0 %  [90.0–100.0]  +80.0 points, p < 0.001\n```\n```\n$ make tutorial\nSFT 1.0 %  [1.0–1.0]\n```\n"
    )
    assert script.session(log) == ([("base", 20, 10, 30), ("RL", 100, 90, 100)], 7, 50)
