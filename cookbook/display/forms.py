"""Forms under JupyterLab: parameters that write their command, and a question to several models.

Why: who tries things out should not have to look up how a list or a text is handed to papermill. But a widget is
neither in the saved notebook nor on GitHub, so each is an extra beside what a cell has printed already; where nobody
can click, a line says that it is there.

    parameter_form(settings, "sft.ipynb")
    question_form(clips, "Do they touch?", answer)    # answer(question, path) is what it shows
"""

import ast
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
from IPython.display import display

from cookbook.data.picture import is_picture
from cookbook.display.clips import play
from cookbook.display.plots import from_root
from cookbook.display.progress import choose_mode
from cookbook.display.settings import RANGE, Parameter, Settings

WIDE, LABEL = "36em", {"description_width": "9em"}


@dataclass(frozen=True)
class InLab:
    """A widget, made where it can be used; elsewhere one line, so that no notebook keeps a widget without its state."""

    what: str
    make: Callable[[], object]

    def __repr__(self) -> str:
        return f"(In JupyterLab: {self.what}.)"

    def _ipython_display_(self) -> None:
        if choose_mode() == "live":
            display(self.make())
        else:
            print(self)


def parameter_form(settings: Settings, notebook: str) -> InLab:
    """Returns a form that writes the papermill line of the values that are typed, or why one is refused."""

    def make():
        fields = {p.name: _field(p) for p in settings.parameters}
        line = ipywidgets.HTML()

        def write(_=None) -> None:
            try:
                given = {p.name: _typed(p, fields[p.name].value) for p in settings.parameters}
                line.value = f"<code>{html.escape(settings.changed(given).command(notebook))}</code>"
            except (TypeError, ValueError) as refusal:
                line.value = f"<b>{html.escape(str(refusal))}</b>"

        for field in fields.values():
            field.observe(write, "value")
        write()
        wraps = ipywidgets.Layout(flex="1 1 12em", min_width="12em")
        rows = ipywidgets.Layout(flex_flow="row wrap")
        helps = [ipywidgets.HTML(html.escape(p.help), layout=wraps) for p in settings.parameters]
        return ipywidgets.VBox([line, *(ipywidgets.HBox(row, layout=rows) for row in zip(fields.values(), helps))])

    return InLab("a form that writes this command as you change values", make)


def _field(parameter: Parameter):
    """Returns the input for a parameter: a box to tick, a choice, or a text."""
    look = {"description": parameter.name, "style": LABEL}
    held = RANGE.fullmatch(parameter.range)
    if parameter.type is bool:
        return ipywidgets.Checkbox(parameter.value, indent=True, **look)
    if held and held["choices"]:
        return ipywidgets.Dropdown(options=held["choices"].split("|"), value=parameter.value, **look)
    return ipywidgets.Text(str(parameter.value), **look)


def _typed(parameter: Parameter, value: object) -> object:
    """Returns what a field's value says as Python; a text that says nothing stays, and is refused by its type."""
    if not isinstance(value, str) or parameter.type is str:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return value


def question_form(clips: Mapping[str, str | Path], question: str, answer: Callable[[str, Path], object]) -> InLab:
    """Returns a form with a choice of clips, by name, a path of one's own and a question; it shows `answer` to both."""

    def make():
        wide = ipywidgets.Layout(width=WIDE)
        clip = ipywidgets.Dropdown(options=[(name, str(path)) for name, path in clips.items()], description="clip")
        own = ipywidgets.Text(description="or a file", placeholder="path of your own clip or picture", layout=wide)
        words = ipywidgets.Textarea(question, description="question", layout=wide)
        button, shown = ipywidgets.Button(description="Ask"), ipywidgets.Output()

        def ask(_) -> None:
            button.disabled, path = True, from_root(Path(own.value.strip() or clip.value).expanduser())
            shown.clear_output()
            with shown:  # what goes wrong in it is shown in it
                try:
                    if not words.value.strip():
                        raise ValueError("the question is empty")
                    display(answer(words.value, path), *([] if is_picture(path) else [play(path)]))
                except (OSError, ValueError) as refusal:
                    print(refusal)
            button.disabled = False

        button.on_click(ask)
        return ipywidgets.VBox([clip, own, words, button, shown])

    return InLab("choose a clip or a file of your own, and ask", make)
