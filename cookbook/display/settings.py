"""Settings: the cell after a notebook's parameters says what holds, and refuses what cannot.

Why: papermill runs the defaults when a parameter's name is misspelt, and hands over `-p flag true` as the
text "true"; an hour later somebody reads the wrong curve. So every notebook reads its own parameters cell,
where names, types, defaults and meanings stand, and compares it with the values that it really got.

A help that begins with a range or with choices in brackets has them held, and the table does not show them:

    epochs: int = 0  # [0..] passes over the data
    engine: str = "auto"  # [auto|local|cosmos-rl] what trains

    settings = check_settings()     # in the cell after the one tagged `parameters`; shows itself as a table
    show_source(check_settings)     # shows the code that a notebook is about to use
"""

import ast
import difflib
import inspect
import json
import linecache
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ipykernel.compiler import get_tmp_directory
from IPython import get_ipython
from IPython.display import display

from cookbook.display.tables import AsTable, Bold, Code, Table

TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list)}
RANGE = re.compile(r"\[(?:(?P<least>-?\d+(?:\.\d+)?)?\.\.(?P<most>-?\d+(?:\.\d+)?)?|(?P<choices>[\w|-]+))\]\s*")
LARGEST = 2**53  # above it a float is no whole number
ENDS = {"least": -LARGEST, "most": LARGEST}
FORM = "one literal a line: name: type = value  # help"
INJECTED = "# Parameters"  # the first line of the cell that papermill adds
SESSION = "JPY_SESSION_NAME"  # JupyterLab's variable for the notebook's file
OUR_ERRORS = ("cookbook.", "data_tools.")  # modules whose errors say what helps
OWN_NAMES = "PAPERMILL_"  # what papermill's --inject-paths adds is no parameter of ours


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell, and the value that holds in this run."""

    name: str
    type: type
    default: object
    help: str
    value: object
    range: str = ""  # as the help has it: "[0..1]", "[auto|local]"

    def accept(self, value: object) -> "Parameter":
        """Returns the parameter with this value; an int may stand for a float. Raises TypeError, ValueError."""
        if self.type is float and type(value) is int and abs(value) <= LARGEST:
            value = float(value)
        if type(value) is self.type:
            self._require_sense(value)
            return replace(self, value=value)
        remedies = {
            bool: f"Write -p {self.name} True or -p {self.name} False, with a capital letter.",
            str: f"Write -r {self.name} {value}: with -r instead of -p papermill keeps it as text.",
        }
        found, wanted = type(value).__name__, self.type.__name__
        remedy = self._hint(value) if value is self.default else remedies.get(self.type, self._hint(value))
        raise TypeError(f"{self.name} is {value!r} ({found}), but takes {wanted}. {remedy}")

    def _hint(self, value: object) -> str:
        # a default that is refused is what somebody has written into the cell; True is no 1
        written = value == self.default and value is not True
        return "Change it in the parameters cell." if written else f"The default is {self.default!r}."

    def _require_sense(self, value: object) -> None:
        held = RANGE.fullmatch(self.range)
        if self.type in (int, float):
            least, most = (float(held[end] or other) if held else other for end, other in ENDS.items())
            if not least <= value <= most:
                number = "whole number" if self.type is int else "number"
                ends = f"from {least:.15g} to {most:.15g}" if most < LARGEST else f"of at least {least:.15g}"
                raise ValueError(f"{self.name} is {value!r}, but takes a {number} {ends}. {self._hint(value)}")
        elif held and held["choices"] and value not in (choices := held["choices"].split("|")):
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else f". {self._hint(value)}"
            raise ValueError(f"{self.name} is {value!r}, but takes one of {', '.join(choices)}{hint}")


class Settings(AsTable):
    """The parameters of this run, by name: `settings.epochs`; `dict(settings)` gives name → value."""

    parameters: tuple[Parameter, ...]  # with their types, ranges and help

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        """The order of the parameters is the order of the table."""
        found = tuple(parameters)
        self.__dict__.update({p.name: p.value for p in found} | {"parameters": found})

    def __getattr__(self, name: str) -> object:
        # only what is no parameter comes here; copy and pickle ask for such names before there are parameters
        raise AttributeError(name if name.startswith("_") else _unknown(name, [p.name for p in self.parameters]))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: settings are fixed; change the parameters cell and run both cells again")

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return ((p.name, p.value) for p in self.parameters)

    @property
    def are_defaults(self) -> bool:
        """Returns whether nothing was changed: only then do a notebook's checks hold for sure."""
        return all(p.value == p.default for p in self.parameters)

    def changed(self, given: Mapping[str, object]) -> "Settings":
        """Returns settings with other values, by name. Raises TypeError, ValueError for one that is refused."""
        return Settings(p.accept(given.get(p.name, p.value)) for p in self.parameters)

    def command(self, notebook: str) -> str:
        """Returns the line that runs a notebook with these parameters again: those that are no defaults."""
        words = ["papermill", notebook, "out.ipynb"]
        for p in self.parameters:
            if p.value != p.default and p.type is list:
                words += ["-y", f"{p.name}: {p.value}"]
            elif p.value != p.default:
                words += ["-r" if p.type is str else "-p", p.name, str(p.value)]
        return shlex.join(words)

    def _table(self) -> Table:
        changed = ("" if p.value == p.default else f"default {p.default!r}" for p in self.parameters)
        rows = [(p.name, Code(repr(p.value)), Bold(words), p.help) for p, words in zip(self.parameters, changed)]
        return Table(("name", "value", "changed", "meaning"), rows)


def check_settings() -> Settings:
    """Returns the notebook's parameters with the values they have now, checked.

    Works in JupyterLab, under papermill and under nbval. Raises what `validate` does, ValueError for a parameters cell
    that has not run or that papermill could not read, RuntimeError outside of a notebook.
    """
    shell = get_ipython()
    if shell is None:
        raise RuntimeError("check_settings() reads the cells of a notebook; elsewhere use validate()")
    shell.set_custom_exc((Exception, KeyboardInterrupt), _told)
    try:
        return _check(shell)
    except (TypeError, ValueError) as refusal:
        _in_one_line(refusal)
        raise


def _told(shell, kind: type, error: BaseException, trace: TracebackType, tb_offset: int | None = None) -> None:
    """Show the stop button and what this project refuses in their own words; a stopped training has its own."""
    if kind is KeyboardInterrupt:
        _in_one_line(error, "stopped; what stands is kept, and the same cell goes on from there")
    elif kind.__module__.startswith(OUR_ERRORS):
        _in_one_line(error)
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def _in_one_line(error: BaseException, words: str = "") -> None:
    """Let IPython show an error without its traceback: where in our code says nothing to anybody."""
    if not hasattr(error, "_render_traceback_"):
        told = f"{type(error).__name__}: {words or error}"
        error._render_traceback_ = lambda: [told]


def _check(shell) -> Settings:
    # the cells that the kernel ran, oldest first: it does not know which notebook it runs
    cells = list(filter(None, shell.history_manager.input_hist_parsed))
    if not cells:  # nbval runs every cell once and without history; but the sources are kept for tracebacks
        names = [name for name in linecache.cache if name.startswith(get_tmp_directory())]
        cells = ["".join(linecache.getlines(name)) for name in names]
    declared, injected = find_cells(cells)
    stored = (n.id for n in ast.walk(ast.parse(injected)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    names = [*read_parameters(declared), *stored]
    _require_use(read_parameters(declared), os.environ.get(SESSION, ""))
    return validate(declared, {name: shell.user_ns[name] for name in names if name in shell.user_ns})


def _require_use(declared: Collection[str], notebook: str) -> None:
    """Raises ValueError for a name that no other cell of this notebook says: a line that was added, but misspelt."""
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"] if notebook else []
    except (OSError, ValueError, KeyError, TypeError):  # it tells where Jupyter says so, and has been saved
        return
    others = [c for c in cells if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])]
    names = set().union(*(_names("".join(cell["source"])) for cell in others))
    if others and (unused := next((name for name in declared if name not in names), None)):
        raise ValueError(_unknown(unused, [name for name in declared if name in names], near=sorted(names)))


def _names(source: str) -> set[str]:
    """Returns the names that a cell uses, `settings.NAME` too; its words where it is no plain Python."""
    try:
        nodes = [*ast.walk(ast.parse(source))]
    except SyntaxError:
        return set(re.findall(r"\w+", source))
    asked = {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "settings"}
    return asked | {n.id for n in nodes if isinstance(n, ast.Name)}


def validate(declared: str, given: Mapping[str, object]) -> Settings:
    """Returns the settings that the source `declared` and the values in `given` make together.

    What is not given keeps its default. Raises ValueError for a name in `given` that is not declared, naming
    the nearest that is, TypeError for a value of the wrong type, and ValueError for one out of its range.
    """
    parameters = read_parameters(declared)
    for name in given:
        if name not in parameters and not name.startswith(OWN_NAMES):
            raise ValueError(_unknown(name, parameters))
    return Settings(p.accept(given.get(name, p.default)) for name, p in parameters.items())


def read_parameters(source: str) -> dict[str, Parameter]:
    """Returns the parameters that a cell declares, by name. Raises ValueError for a line of another form."""
    lines = source.splitlines()
    return {p.name: p for p in (_read_line(node, lines[node.lineno - 1]) for node in ast.parse(source).body)}


def _read_line(node: ast.stmt, line: str) -> Parameter:
    """Returns the parameter of one statement; refuses what papermill's own reader would get wrong."""

    def refuse(why: str) -> ValueError:
        return ValueError(f"parameters cell: {line.strip()!r} {why}. The form is {FORM}")

    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        raise refuse("has no type")
    kind = ast.unparse(node.annotation)
    if kind not in TYPES:
        raise refuse(f"has the type {kind}; known are {', '.join(TYPES)}")
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        raise refuse("has no literal value") from None
    if node.lineno != node.end_lineno or line.count("=") != 1:
        raise refuse("must stand on one line with a single '=', in the comment too")
    comment = line.encode()[node.end_col_offset :].decode().strip()  # ast counts in bytes
    help = comment.lstrip("# ")
    held = (match[0] if (match := RANGE.match(help)) else "").rstrip()
    parameter = Parameter(node.target.id, TYPES[kind], default, help[len(match[0]) if match else 0 :], default, held)
    accepted = parameter.accept(default)
    return replace(accepted, default=accepted.value)


def _unknown(name: str, parameters: Collection[str], near: Collection[str] = ()) -> str:
    """Returns the sentence for a name that is no parameter; the one that was meant is looked for in `near` too."""
    nearest = difflib.get_close_matches(name, [*parameters, *near], n=1, cutoff=0.5)
    question = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"{name} is no parameter of this notebook{question} Its parameters: {', '.join(parameters)}"


def find_cells(cells: Iterable[str]) -> tuple[str, str]:
    """Returns the declared and the injected cell ("" where there is none) among executed cells, oldest first.

    The latest parameters cell counts, since somebody may have edited it and run it again; an injected cell
    counts only when it ran after that, and so does one that declares less than half of the names again: its names are
    to be known. Raises ValueError where no cell declares parameters.
    """
    declared, injected, known = None, "", set()
    for cell in cells:
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # a cell that failed stays in the history
            continue
        if not statements or not all(isinstance(node, ast.Assign | ast.AnnAssign) for node in statements):
            continue
        names = {ast.unparse(node.target) for node in statements if isinstance(node, ast.AnnAssign)}
        if names and 2 * len(names & known) >= len(known):
            declared, injected, known = cell, "", names
        elif names or cell.lstrip().startswith(INJECTED):
            injected = "\n".join(filter(None, [injected, cell]))
    if declared is None:
        raise ValueError(f"the parameters cell has not run. Run it first; its form is {FORM}")
    return declared, injected


def show_source(thing) -> None:
    """Shows the real source of a function or class of a package, under its file and line.

    Raises ValueError for one that a notebook defines itself, TypeError for one that is not written in Python.
    """
    thing = inspect.unwrap(thing)
    lines, first = inspect.getsourcelines(thing)
    package = sys.modules[thing.__module__.partition(".")[0]]
    if not getattr(package, "__file__", None):
        raise ValueError(f"{thing.__qualname__} is no function of a package; its source stands in the notebook")
    path = Path(inspect.getsourcefile(thing)).relative_to(Path(package.__file__).parents[1]).as_posix()
    code = textwrap.dedent("".join(lines)).rstrip()
    plain = f"{path}:{first}\n\n{code}"
    # Markdown, not HTML: the page colours it, in dark themes too, and no cell carries a style sheet
    display({"text/markdown": f"`{path}:{first}`\n\n```python\n{code}\n```", "text/plain": plain}, raw=True)
