"""Settings: a misspelt name and a value of the wrong type stop a notebook, in every place where it runs."""

import copy
import linecache
import shlex
from types import SimpleNamespace

import nbformat
import pytest
from click.testing import CliRunner
from nbval.kernel import RunningKernel
from papermill.__main__ import papermill

from cookbook.data import answers
from cookbook.data.contract import Contract
from cookbook.display import settings
from cookbook.display.settings import find_cells, read_parameters, show_source, validate
from cookbook.runs import ROOT

DECLARED = """\
epochs: int = 1  # passes over the data
rate: float = 1e-4  # step size, α
shuffle: bool = True  # new order in each epoch
run: str = "sft"
"""
INJECTED = "# Parameters\nepochs = 3\n"
CHECK = "from cookbook.display.settings import check_settings\n\nsettings = check_settings()\nsettings"


# The parameters cell


def test_a_parameter_has_name_type_default_and_help():
    parameters = read_parameters(DECLARED)
    assert list(parameters) == ["epochs", "rate", "shuffle", "run"]
    assert [p.type for p in parameters.values()] == [int, float, bool, str]
    assert [p.default for p in parameters.values()] == [1, 1e-4, True, "sft"]
    assert [p.help for p in parameters.values()] == [
        "passes over the data",
        "step size, α",
        "new order in each epoch",
        "",
    ]


def test_letters_outside_of_ascii_do_not_shift_the_help():
    assert read_parameters('run: str = "épée à été"  # its folder')["run"].help == "its folder"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("epochs = 3", "has no type"),
        ("epochs: int", "has no literal value"),
        ("epochs: int = 3 * 4", "has no literal value"),
        ("epochs: int | None = 3", "has the type int | None"),
        ("epochs: int = 3  # rate=1 works", "a single '='"),
        ("epochs: list = [1,\n 2]", "on one line"),
    ],
)
def test_a_line_that_papermill_reads_wrongly_is_refused_and_shown(line, why):
    with pytest.raises(ValueError, match="parameters cell") as refusal:
        read_parameters(f"seed: int = 0\n{line}")
    assert why in str(refusal.value) and line.splitlines()[0] in str(refusal.value)


# The values


def test_without_values_the_defaults_hold():
    assert dict(validate(DECLARED, {})) == {"epochs": 1, "rate": 1e-4, "shuffle": True, "run": "sft"}


def test_given_values_replace_defaults():
    checked = validate(DECLARED, {"epochs": 3, "shuffle": False})
    assert (checked.epochs, checked.shuffle, checked.rate) == (3, False, 1e-4)


def test_an_int_may_stand_for_a_float():
    rate = validate(DECLARED, {"rate": 1}).rate
    assert rate == 1.0 and type(rate) is float


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("epochs", "true", "default is 1"),
        ("epochs", "50", "default is 1"),
        ("epochs", 2.0, "default is 1"),
        ("epochs", True, "default is 1"),
        ("epochs", None, "default is 1"),
        ("rate", "fast", "default is 0.0001"),
        ("rate", True, "default is 0.0001"),
        ("shuffle", "true", "-p shuffle True"),
        ("shuffle", 1, "-p shuffle True"),
        ("run", 7, "-r run 7"),
    ],
)
def test_a_wrong_type_is_named_with_value_wanted_type_and_remedy(name, value, remedy):
    with pytest.raises(TypeError) as refusal:
        validate(DECLARED, {name: value})
    wanted = read_parameters(DECLARED)[name].type.__name__
    for word in (name, repr(value), f"takes {wanted}", remedy):
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('epochs: int = "3"', "epochs is '3' (str), but takes int."),
        ("epochs: int = -1  # [0..] passes", "epochs is -1, but takes a whole number of at least 0."),
        ('shuffle: bool = "true"', "shuffle is 'true' (str), but takes bool."),
        ("run: str = 7", "run is 7 (int), but takes str."),
    ],
)
def test_what_was_written_into_the_cell_is_refused_there(line, said):
    with pytest.raises((TypeError, ValueError)) as refusal:
        validate(line, {})
    assert str(refusal.value) == f"{said} Change it in the parameters cell."  # no word of papermill, nor of a default


def test_settings_with_other_values_are_checked_too():
    first = validate(DECLARED, {"epochs": 3})
    assert dict(first.changed({"run": "mine"})) == dict(first) | {"run": "mine"}
    with pytest.raises(TypeError, match="epochs is 'x'"):
        first.changed({"epochs": "x"})


def test_an_unknown_name_is_refused_with_the_nearest_and_all_others():
    with pytest.raises(ValueError, match=r"^epoch is no parameter.*mean epochs\?.*epochs, rate, shuffle, run"):
        validate(DECLARED, {"epoch": 50})
    with pytest.raises(ValueError, match=r"^zzz is no parameter of this notebook\. Its parameters: epochs"):
        validate(DECLARED, {"zzz": 50})


def test_what_papermill_adds_about_itself_is_no_mistake():
    assert validate(DECLARED, {"PAPERMILL_INPUT_PATH": "sft.ipynb"}).epochs == 1


# The object


def test_the_table_says_what_is_changed_and_what_it_means():
    checked = validate(DECLARED, {"epochs": 3, "run": "<b>"})
    head, epochs, rate, *_ = repr(checked).splitlines()
    assert head.split() == ["name", "value", "changed", "meaning"]
    assert epochs.split() == ["epochs", "3", "default", "1", "passes", "over", "the", "data"]
    assert "default" not in rate
    assert "default 1<" in checked._repr_html_() and "&lt;b&gt;" in checked._repr_html_()


def test_settings_cannot_be_changed_and_know_their_names():
    checked = validate(DECLARED, {})
    with pytest.raises(AttributeError, match="change the parameters cell"):
        checked.epochs = 3
    with pytest.raises(AttributeError, match=r"mean epochs\?"):
        _ = checked.epoch
    assert "epochs" in dir(checked)
    assert dict(copy.deepcopy(checked)) == dict(checked)


# Which cells count


def test_the_injected_cell_after_the_declared_one_counts():
    assert find_cells(["import os", DECLARED, INJECTED, CHECK]) == (DECLARED, INJECTED)
    assert find_cells([DECLARED, CHECK]) == (DECLARED, "")


def test_a_parameters_cell_that_was_edited_and_run_again_counts():
    edited = DECLARED.replace("= 1 ", "= 5 ")
    assert find_cells([DECLARED, INJECTED, CHECK, edited, CHECK]) == (edited, "")
    assert find_cells([DECLARED, edited, "epochs: int = = 7", CHECK]) == (edited, "")
    assert find_cells([DECLARED, edited, DECLARED, INJECTED]) == (DECLARED, INJECTED)


def test_other_cells_are_neither():
    others = ["x = 1", "# Parameters are below\nprint(1)", "for i in []:\n    x: int = 1", "%%magic", ""]
    assert find_cells([DECLARED, *others]) == (DECLARED, "")


def test_without_a_parameters_cell_the_message_says_to_run_it():
    with pytest.raises(ValueError, match="Run it first"):
        find_cells([CHECK])


def fake_shell(monkeypatch, cells: list[str], namespace: dict) -> None:
    """A kernel that ran these cells and holds these names."""
    history = SimpleNamespace(input_hist_parsed=["", *cells])
    shell = SimpleNamespace(history_manager=history, user_ns=namespace, set_custom_exc=lambda *_: None)
    monkeypatch.setattr(settings, "get_ipython", lambda: shell)


def test_a_value_set_by_hand_below_the_parameters_holds(monkeypatch):
    fake_shell(monkeypatch, [DECLARED, "epochs = 9"], {"epochs": 9, "rate": 1e-4, "unrelated": 1})
    assert settings.check_settings().epochs == 9


HELD = """\
seed: int = 0  # [0..4294967295] order of the samples
share: float = 0.5  # [0..1] of the data
clips: int = -1  # [-1..] -1 all
engine: str = "auto"  # [auto|local|cosmos-rl] what trains
rate: float = 1e-4  # step size
"""


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": -1}, "seed is -1, but takes a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296, but takes a whole number from 0 to"),
        ({"share": 1.5}, "share is 1.5, but takes a number from 0 to 1"),
        ({"share": float("nan")}, "share is nan, but takes a number from 0 to 1"),
        ({"clips": -2}, "clips is -2, but takes a whole number of at least -1"),
        ({"engine": "lokal"}, "engine is 'lokal', but takes one of auto, local, cosmos-rl; did you mean local?"),
        ({"engine": ""}, "engine is '', but takes one of"),
        ({"rate": float("inf")}, "rate is inf, but takes a number"),
        ({"rate": float("nan")}, "rate is nan, but takes a number"),
        ({"clips": 10**400}, "but takes a whole number"),
    ],
)
def test_a_value_out_of_its_range_is_refused_in_one_sentence(given, said):
    with pytest.raises((ValueError, TypeError)) as caught:
        validate(HELD, given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_range_holds_the_default_too_and_is_no_part_of_the_help():
    parameters = read_parameters(HELD)
    assert [p.help for p in parameters.values()][:2] == ["order of the samples", "of the data"]
    assert validate(HELD, {"seed": 2**32 - 1, "share": 1, "engine": "local"}).seed == 2**32 - 1
    with pytest.raises(ValueError, match="share is 2"):
        read_parameters("share: float = 2.0  # [0..1] of the data")


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    "notebook",
    ["sft", "rl", "evaluation", "deploy", "data", "recipes/video_rewards", "recipes/intelligent_transportation"],
)
def test_the_shipped_parameters_refuse_what_cannot_be(notebook):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    declared = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    for name, parameter in read_parameters(declared).items():
        assert parameter.range or parameter.type in (str, bool), name
        if parameter.type not in (str, bool):
            with pytest.raises(ValueError, match=f"{name} is -7"):
                validate(declared, {name: parameter.type(-7)})
    if "engine" in declared and "recipes" not in notebook:
        assert read_parameters(declared)["engine"].range == "[auto|local|cosmos-rl]"


@pytest.mark.fault("inputs")
def test_a_misspelt_name_with_a_type_in_a_later_cell_is_refused(monkeypatch):
    fake_shell(monkeypatch, [DECLARED, "epoch: int = 9"], {"epochs": 1, "epoch": 9})
    with pytest.raises(ValueError, match="epoch is no parameter of this notebook; did you mean epochs"):
        settings.check_settings()
    fake_shell(monkeypatch, [DECLARED, INJECTED, "epochs: int = 9"], {"epochs": 9})
    assert settings.check_settings().epochs == 9


def test_a_misspelt_line_in_the_parameters_cell_is_refused_in_jupyterlab(monkeypatch, tmp_path):
    wrong = DECLARED + "epoch: int = 9\n"
    used = nbformat.v4.new_code_cell("train(epochs, rate, shuffle, run)")
    first = nbformat.v4.new_code_cell(wrong, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[first, used]), tmp_path / "n.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "n.ipynb"))
    fake_shell(monkeypatch, [wrong, CHECK], {})
    with pytest.raises(ValueError, match="epoch is no parameter of this notebook; did you mean epochs"):
        settings.check_settings()
    fake_shell(monkeypatch, [DECLARED, CHECK], {})
    assert settings.check_settings().epochs == 1


def test_a_parameter_that_was_renamed_is_refused_and_a_word_in_a_text_is_no_use(monkeypatch, tmp_path):
    renamed = DECLARED.replace("epochs:", "epoch:")
    used = nbformat.v4.new_code_cell('train({"train.epoch": epochs}, rate, shuffle, run)')
    first = nbformat.v4.new_code_cell(renamed, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[first, used]), tmp_path / "n.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "n.ipynb"))
    fake_shell(monkeypatch, [renamed, CHECK], {"epochs": 1})  # a kernel still has the value of before
    with pytest.raises(ValueError, match="epoch is no parameter of this notebook; did you mean epochs"):
        settings.check_settings()


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_every_shipped_parameter_is_used(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    for declared in (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])):
        settings._require_use(read_parameters(declared), str(notebook))


def test_outside_of_a_notebook_it_says_so():
    with pytest.raises(RuntimeError, match="validate"):
        settings.check_settings()


# In real kernels


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook of two cells, the parameters and their check, in a folder of its own."""
    parameters = nbformat.v4.new_code_cell(DECLARED, metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(CHECK)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path_factory.mktemp("notebooks") / "tiny.ipynb"
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("", 0, "epochs 1 passes over"),
        ("-p epochs 3", 0, "epochs 3 default 1 passes over"),
        ("-p epoch 50", 1, "epoch is no parameter of this notebook; did you mean epochs?"),
        ("-p epochs true", 1, "epochs is 'true' (str), but takes int"),
    ],
)
def test_papermill_runs_or_refuses(notebook, tmp_path, monkeypatch, options, code, said):
    monkeypatch.chdir(tmp_path)  # neither the notebook's folder nor the repository
    command = [str(notebook), "out.ipynb", "--no-progress-bar", *options.split()]
    assert CliRunner().invoke(papermill, command).exit_code == code
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    text = output.evalue if code else output.data["text/plain"]
    assert said in " ".join(text.split())


def test_nbval_keeps_no_history_and_the_settings_are_still_found(tmp_path):
    kernel = RunningKernel("python3", cwd=str(tmp_path))
    try:
        for source in (DECLARED, CHECK + "\nassert settings.epochs == 1 and len(In) == 1"):
            message = kernel.execute_cell_input(source)
            reply = kernel.kc.get_shell_msg(timeout=30)
            while reply["parent_header"].get("msg_id") != message:
                reply = kernel.kc.get_shell_msg(timeout=30)
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        kernel.stop()


@pytest.mark.fault("local engine")
def test_a_stop_while_something_loads_is_one_line_and_the_kernel_goes_on(tmp_path):
    kernel = RunningKernel("python3", cwd=str(tmp_path))

    def until(kind: str, word: str = "") -> dict:
        while True:
            message = kernel.kc.get_iopub_msg(timeout=60)
            if message["msg_type"] == kind and word in str(message["content"]):
                return message["content"]

    try:
        for source in (DECLARED, CHECK, "import time\nprint('loads', flush=True)\ntime.sleep(600)"):
            kernel.execute_cell_input(source)
        until("stream", "loads")
        kernel.km.interrupt_kernel()
        (told,) = until("error")["traceback"]
        assert told.startswith("KeyboardInterrupt: stopped; ") and "\n" not in told
        kernel.execute_cell_input("1 / 0")  # other errors keep their traceback
        assert len(until("error")["traceback"]) > 1
        kernel.execute_cell_input("from cookbook.config import Config\nConfig.parse('[train')")  # ours say what helps
        (told,) = until("error")["traceback"]
        assert told.startswith("ConfigError: ")
        kernel.execute_cell_input("print(settings.epochs + 41)")
        until("stream", "42")
    finally:
        kernel.stop()


# Source


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """What was displayed, newest last."""
    outputs = []
    monkeypatch.setattr(settings, "display", lambda data, raw: outputs.append(data))
    return outputs


def test_the_source_is_the_real_one_under_its_file_and_line(shown):
    show_source(answers.choose)
    heading, _, *code = shown[0]["text/plain"].splitlines()
    path, line = heading.split(":")
    assert path == "cookbook/data/answers.py"
    lines = linecache.getlines(answers.__file__)
    assert "".join(lines[int(line) - 1 :]).startswith("\n".join(code))
    assert code[0].startswith("def choose(")
    assert f"```python\n{code[0]}" in shown[0]["text/markdown"]


def test_a_method_is_shown_without_its_indent(shown):
    show_source(Contract.conversation)
    assert "\n\ndef conversation(self" in shown[0]["text/plain"]


def test_what_no_package_defines_has_no_source_to_show(shown):
    homemade = type("Homemade", (), {"__module__": "__main__"})
    for thing in (len, homemade):
        with pytest.raises((TypeError, ValueError, OSError)):
            show_source(thing)
    assert shown == []


def test_the_command_that_repeats_a_run_says_what_was_changed():
    cell = 'epochs: int = 2  # passes\nname: str = "x"  # of it\nfull: bool = False  # all\nparts: list = []  # some'
    assert settings.validate(cell, {}).command("sft.ipynb") == "papermill sft.ipynb out.ipynb"
    given = {"epochs": 50, "name": "12 a", "full": True, "parts": ["a", "b"]}
    words = shlex.split(settings.validate(cell, given).command("sft.ipynb"))
    said = ["-p", "epochs", "50", "-r", "name", "12 a", "-p", "full", "True", "-y", "parts: ['a', 'b']"]
    assert words == ["papermill", "sft.ipynb", "out.ipynb", *said]
