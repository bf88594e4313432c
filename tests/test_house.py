"""The house: what stands at the top of each package, which way imports run, how large the road is, what names mean.

Why: a house stays a picture only where something holds it. CONTRIBUTING.md says why the folders stand as they do.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from cookbook.runs import ROOT

TOPS = {
    "cookbook": "tutorial jobs new pipeline runs inference gym watch compare lessons",
    "data_tools": "cosmos_sft cosmos_grpo avha_sft_single_caption llava_sft saved_sft samples_sft road_vqa videophy2 "
    "wts_vqa warehouse_vqa av_caption av_grounding convert region_masks videophy2_download",
}
# each may import from those before it; `runs` and `config` say where things are and how they are set
ORDER = ["runs", "data", "display", "config", "model", "checkpoint", "training", "evaluation", "deploy", "engine",
         "doctor"]  # fmt: skip
# in the order in which one may ask another
DOORS = ["inference", "watch", "compare", "pipeline", "gym", "jobs", "new", "tutorial", "lessons", "__main__"]
ROAD = ["pipeline.py", "runs.py", "data", "model", "training", "checkpoint/store.py", "evaluation/predict.py",
        "evaluation/predictions.py", "evaluation/scores.py", "evaluation/statistics.py"]  # fmt: skip
LOOPS = {"sft", "grpo"}
# public names that stand in several modules, and mean the same in each
SAME = {
    "main": "the command of a module: arguments in, exit code out",
    "load": "brings in what a path or a configuration names: a model to compute with, samples to train on",
    "read": "the rows or samples of a file or folder; formats are chosen by name, and each has one",
    "write": "samples into a format's folder; formats are chosen by name, and each has one",
    "rows": "the rows of a dataset as its files have them, before they are samples",
    "convert": "a dataset into the layout of another",
    "build": "a toy world's folder",
    "plan": "works out beforehand: what a clip will show, what a run will take",
    "ask": "lets a checkpoint answer: one clip's question, a job's unseen ones",
    "render": "draws a planned clip or picture",
    "plan_steps": "the steps of a training, before it starts",
    "binary": "yes-or-no answers: their metric, their reward",
    "ordinal": "grades: their metric, their reward",
}
# lines at most: 3,800, 10,000 and 5,600 stood before any data (jobs, new, predict's command, presets, vllm) and
# before nothing was lost (checkpointer, locks, what is refused by name); 13,980 before lint asked loaders, before
# speed, a second family of models, and the room deploy; 15,840 before steps were recorded and prompts shared;
# 16,112 and 6,008 before boxes in space; 16,290 and 4,933 before the local engine trained adapters and chosen parts,
# and mini-batches were laid out before a GPU sees them; 5,010, 16,745 and 6,210 before a base was known in any folder,
# choices in the words alone, lengths without a tokenizer, and Qwen3-VL's mini-batches were laid out; 5,028 and 17,066
# before prompt files said for how many seconds they hold, the plan knew long samples, and two tries of the
# commands, by somebody hostile and somebody new; 5_036, 17_255 and 6_361 before sentences were judged by shared words,
# GPUs shared GRPO's towers and tied heads, and splits could be files of one folder
LIMITS = {"road": 5_075, "cookbook": 17_438, "data_tools": 6_432}


def files(*places: str) -> list[Path]:
    found = [ROOT / place for place in places]
    return [file for place in found for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(file): ast.parse(file.read_text(encoding="utf-8")) for file in files("cookbook", "data_tools")}


def imported(module: str) -> set[str]:
    """Returns the modules of this project that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {node.module}
            if whole - MODULES.keys():
                found.add(node.module)
    return (found & MODULES.keys()) - {module}


def lines(*places: str) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files(*places))


def room(module: str) -> str:
    """Returns the folder or door that a module belongs to; a package's `__main__` is typed, so it is a door."""
    parts = module.split(".")
    return "__main__" if parts[-1] == "__main__" else parts[1] if parts[1:] else ""


@pytest.mark.parametrize("package", TOPS)
def test_the_top_of_a_package_is_what_one_types(package):
    assert {file.stem for file in (ROOT / package).glob("*.py")} == {"__init__", *TOPS[package].split()}


def test_imports_run_to_the_left_only():
    places = {name: place for place, name in enumerate(ORDER + DOORS)}
    wrong = [
        f"{module} -> {other}"
        for module in MODULES
        for other in imported(module)
        if module.startswith("cookbook.")
        and other.startswith("cookbook.")
        and places[room(other)] > places[room(module)]
    ]
    assert not wrong


def test_only_the_doors_know_the_data_tools():
    knows = {m for m in MODULES if m.startswith("cookbook") and any(o.startswith("data_tools") for o in imported(m))}
    assert {room(module) for module in knows} <= {"pipeline", "gym", "jobs", "new", "tutorial", "lessons"}
    asked = {room(o) for m in MODULES if m.startswith("data_tools") for o in imported(m) if o.startswith("cookbook")}
    assert not asked & set(DOORS)


def test_no_import_goes_in_a_circle():
    waiting = {module: imported(module) for module in MODULES}
    while ready := {module for module, others in waiting.items() if not others & waiting.keys()}:
        waiting = {module: others for module, others in waiting.items() if module not in ready}
    assert not waiting


def test_the_road_can_be_walked():
    road = files(*(f"cookbook/{place}" for place in ROAD))
    assert len([file for file in road if file.name != "__init__.py"]) <= 27
    assert lines(*(f"cookbook/{place}" for place in ROAD)) <= LIMITS["road"]


def test_the_package_is_thin():
    assert lines("cookbook") <= LIMITS["cookbook"]
    assert lines("data_tools") <= LIMITS["data_tools"]


def test_no_public_function_is_long():
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in LOOPS
        and node.end_lineno - node.lineno >= 60
    ]  # fmt: skip
    assert not long


def test_a_public_name_has_one_meaning():
    places = defaultdict(list)
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places[node.name].append(module)
    several = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not {name: modules for name, modules in several.items() if name not in SAME}
    assert not SAME.keys() - several.keys()  # nothing in the table that no longer needs it


def test_only_the_tutorial_and_its_loader_know_the_toy_world():
    knows = {m for m in MODULES if any(o.startswith("data_tools.worlds.road") for o in imported(m))}
    assert {m for m in knows if not m.startswith("data_tools.worlds")} == {"data_tools.road_vqa"}
    texts = {m for m in MODULES if m.startswith("cookbook") and "road_vqa" in ast.unparse(_without_docstrings(m))}
    assert texts <= {"cookbook.jobs"}


def test_only_the_seam_knows_one_family_of_models_from_another():
    """Others ask a record of `data.architecture`; a table says of which family the published models are.

    The engine's own modules, which the bridge mends, are named so.
    """
    names = re.compile(r"qwen\d(_\d)?_vl$|Qwen\d\w*(Processor|Config|Generation)$", re.IGNORECASE)
    told = {
        (module, word)
        for module in MODULES.keys() - {"cookbook.data.architecture", "cookbook.config.models"}
        for node in ast.walk(MODULES[module])
        if names.search(word := str(getattr(node, "value", "") if isinstance(node, ast.Constant) else
                                    getattr(node, "id", "") or getattr(node, "attr", "")))
        if not (module.startswith("cookbook.engine.") and isinstance(node, ast.Name))
    }  # fmt: skip
    assert not told


def _without_docstrings(module: str) -> ast.AST:
    tree = ast.parse(ast.unparse(MODULES[module]))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body[0].value.value = ""
    return tree


def test_no_two_files_of_one_package_have_one_name_and_each_face_lists_its_files():
    for face in files("cookbook", "data_tools"):
        if face.name == "__init__.py" and face.parent.name not in ("cookbook", "data_tools"):
            told = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
            there = {file.stem for file in face.parent.glob("*.py")} - {"__init__", "__main__"}
            assert not {name for name in there if name not in told}, face
