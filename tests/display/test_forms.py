"""Forms: the command follows what is typed, a refusal stands in its place, and nothing is a widget where none works."""

import ipywidgets
import pytest

from cookbook.display import forms
from cookbook.display.forms import InLab, parameter_form, question_form
from cookbook.display.settings import validate

DECLARED = """\
epochs: int = 2  # [0..] passes over the data
rate: float = 1e-4  # [0..1] step size
full: bool = False  # all of it
engine: str = "auto"  # [auto|local] what trains
run: str = ""  # its folder
tasks: list = []  # which
"""


@pytest.fixture
def form():
    """The form's line, and its fields by name."""
    box = parameter_form(validate(DECLARED, {}), "sft.ipynb").make()
    line, *rows = box.children
    return line, {row.children[0].description: row.children[0] for row in rows}


def test_the_line_follows_what_is_typed(form):
    line, fields = form
    assert line.value == "<code>papermill sft.ipynb out.ipynb</code>"
    fields["epochs"].value, fields["rate"].value, fields["full"].value = "50", "1e-6", True
    fields["engine"].value, fields["run"].value, fields["tasks"].value = "local", "7", "['a']"
    said = "-p epochs 50 -p rate 1e-06 -p full True -r engine local -r run 7 -y &#x27;tasks: [&#x27;"
    assert line.value.startswith(f"<code>papermill sft.ipynb out.ipynb {said}")
    for name, value in {"epochs": "2", "rate": "0.0001", "full": False, "engine": "auto", "run": ""}.items():
        fields[name].value = value
    assert "-p" not in line.value and "-y" in line.value


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("epochs", "-1", "takes a whole number of at least 0"),
        ("epochs", "many", "epochs is &#x27;many&#x27; (str), but takes int"),
        ("epochs", "", "takes int"),
        ("rate", "2", "takes a number from 0 to 1"),
        ("tasks", "cause", "takes list"),
    ],
)
def test_a_value_that_is_refused_says_why_and_gives_no_command(form, name, typed, said):
    line, fields = form
    fields[name].value = typed
    assert said in line.value and "papermill" not in line.value


def test_choices_are_a_choice_and_a_flag_is_a_box(form):
    _, fields = form
    assert fields["engine"].options == ("auto", "local") and isinstance(fields["full"], ipywidgets.Checkbox)


def test_a_form_shows_what_a_run_was_given():
    box = parameter_form(validate(DECLARED, {"epochs": 9}), "sft.ipynb").make()
    assert "-p epochs 9" in box.children[0].value


@pytest.mark.parametrize(("mode", "widgets"), [("live", 1), ("quiet", 0), ("lines", 0), ("terminal", 0)])
def test_a_widget_is_made_only_where_it_works(monkeypatch, capsys, mode, widgets):
    made = []
    monkeypatch.setattr(forms, "choose_mode", lambda: mode)
    InLab("a slider", lambda: made.append(1) or "the widget")._ipython_display_()
    assert len(made) == widgets
    assert ("(In JupyterLab: a slider.)" in capsys.readouterr().out) is not bool(widgets)


# A question to several models


@pytest.fixture
def asked(samples, monkeypatch):
    """A form over two clips, what it asked, and what it showed."""
    questions, shown = [], []

    def answer(question, path):
        questions.append((question, path))
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        return "the answers"

    monkeypatch.setattr(forms, "display", lambda *things: shown.extend(things))
    clips = {s.group: s.video for s in samples}
    box = question_form(clips, "Do they touch?", answer).make()
    return box.children, questions, shown, list(clips.values())


def test_the_chosen_clip_is_asked_about_and_shown(asked):
    (clip, _, words, button, _), questions, shown, clips = asked
    button.click()
    clip.value, words.value = str(clips[1]), "Who turns?"
    button.click()
    assert questions == [("Do they touch?", clips[0]), ("Who turns?", clips[1])]
    assert shown[0] == shown[2] == "the answers" and shown[3].video == clips[1].read_bytes()
    assert not button.disabled


def test_an_own_path_goes_before_the_chosen_clip_and_a_wrong_one_is_one_line(asked, capsys):
    (_, own, _, button, _), questions, shown, clips = asked
    own.value = f" {clips[2]} "
    button.click()
    own.value = "nothing.mp4"
    button.click()
    assert questions[0][1] == clips[2] and len(shown) == 2
    assert "nothing.mp4: no such file" in capsys.readouterr().out
