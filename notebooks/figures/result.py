"""README.md's figure and terminal session, from the session in LOG.md; a new session is put there first.

Why: a number that is typed twice is wrong once. tests/test_readme.py holds all of it together.

    script -qec "make tutorial" session.txt               # in a terminal of 80 columns
    python notebooks/figures/result.py session.txt        # without a file: README and figure as LOG.md has it
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SESSION = re.compile(r"(?<=```\n)\$ make tutorial\n.*?(?=```)", re.DOTALL)  # the newest of LOG.md comes first
FIGURE = re.compile(r"!\[.*\](?=\(notebooks/figures/result\.svg\))")
MODEL = re.compile(r"^(base|SFT|RL) +([\d.]+) %  \[([\d.]+)–([\d.]+)\]  (.*)$", re.MULTILINE)
LEFT, RIGHT, TOP, ROW = 70, 570, 44, 38  # pixels: where 0 % and 100 % lie, the first model, from one to the next
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 196" role="img" aria-labelledby="title desc">
<title id="title">Right answers, with 95 % intervals</title>
<desc id="desc">{alt}</desc>
<style>
text {{ font: 14px system-ui, sans-serif; fill: #1f2328 }} .small {{ font-size: 12px; fill: #59636e }}
.axis {{ stroke: #d1d9e0 }} .guess {{ stroke: #59636e; stroke-dasharray: 4 4 }}
.base {{ stroke: #6e7781; fill: #6e7781 }} .SFT {{ stroke: #0969da; fill: #0969da }}
.RL {{ stroke: #1a7f37; fill: #1a7f37 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc }} .small {{ fill: #9198a1 }} .axis {{ stroke: #3d444d }} .guess {{ stroke: #9198a1 }}
.base {{ stroke: #9198a1; fill: #9198a1 }} .SFT {{ stroke: #4493f8; fill: #4493f8 }}
.RL {{ stroke: #3fb950; fill: #3fb950 }}
}}
</style>
"""


def visible(typescript: str) -> str:
    """Returns what stays on the terminal of a session that `script` has recorded, after its command."""
    lines = [line.split("\x1b[K")[-1].rstrip("\r") for line in typescript.split("\n")]
    kept = [line for line in lines if line and not line.startswith("Script ")]
    return "\n".join(["$ make tutorial", *kept]) + "\n"


class Result(NamedTuple):
    """A model's right answers in percent, with the ends of their 95 % interval."""

    model: str
    right: float
    low: float
    high: float


def read(log: str) -> tuple[list[Result], int, float]:
    """Returns (base, SFT and RL of the newest session, how many questions, percent that guessing gets)."""
    lines = MODEL.findall(SESSION.search(log)[0])
    questions, guess = re.search(r"of (\d+) questions.*guessing: ([\d.]+) %", lines[0][-1]).groups()
    return [Result(name, *map(float, numbers)) for name, *numbers, _ in lines], int(questions), float(guess)


def alternative(found: list[Result], questions: int, guess: float) -> str:
    """Returns what the figure says, as a sentence."""
    parts = [f"{one.model} {one.right} % ({one.low} to {one.high})" for one in found]
    return f"Right answers of {questions} questions on unseen clips: {', '.join(parts)}; guessing gets {guess} %."


def draw(found: list[Result], questions: int, guess: float) -> str:
    """Returns the figure as SVG, for light and dark pages."""

    def at(percent: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * percent / 100:.1f}"

    bottom = TOP + ROW * len(found) - 12
    lines = [f'<text x="{LEFT}" y="18">right answers of {questions} questions on unseen clips, 95 % intervals</text>']
    for percent in range(0, 101, 20):
        lines.append(f'<path class="axis" d="M{at(percent)} 28V{bottom}"/>')
        lines.append(f'<text class="small" x="{at(percent)}" y="{bottom + 18}" text-anchor="middle">{percent} %</text>')
    lines.append(f'<path class="guess" d="M{at(guess)} 28V{bottom}"/>')
    lines.append(f'<text class="small" x="{at(guess)}" y="{bottom + 36}" text-anchor="middle">guessing</text>')
    for row, one in enumerate(found):
        y = TOP + ROW * row
        lines.append(f'<text x="8" y="{y + 5}">{one.model}</text>')
        lines.append(f'<path class="{one.model}" stroke-width="3" d="M{at(one.low)} {y}H{at(one.high)}"/>')
        lines.append(f'<circle class="{one.model}" cx="{at(one.right)}" cy="{y}" r="6"/>')
        lines.append(f'<text x="{float(at(one.high)) + 10:.1f}" y="{y + 5}">{one.right} %</text>')
    return HEAD.format(alt=alternative(found, questions, guess)) + "\n".join(lines) + "\n</svg>\n"


def main(files: list[str]) -> None:
    """Put a recorded session into LOG.md, if one is named; bring README.md and the figure up to date with LOG.md."""
    log, readme = ROOT / "LOG.md", ROOT / "README.md"
    for file in files:
        new = visible(Path(file).read_bytes().decode()).replace("\\", r"\\")
        log.write_text(SESSION.sub(new, log.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    text = log.read_text(encoding="utf-8")
    told, session = read(text), SESSION.search(text)[0]
    page = SESSION.sub(lambda _: session, readme.read_text(encoding="utf-8"))
    readme.write_text(FIGURE.sub(lambda _: f"![{alternative(*told)}]", page), encoding="utf-8")
    Path(__file__).with_name("result.svg").write_text(draw(*told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
