"""The troubleshooting notebook: whoever arrives with a symptom finds its section, and the commands that it names."""

import importlib.util
import json
import re

from cookbook.runs import ROOT

CELLS = json.loads((ROOT / "notebooks/troubleshooting.ipynb").read_text(encoding="utf-8"))["cells"]
WORDS = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]
NOT_SYMPTOMS = {"Exercises", "Check", "Try", "What you have now"}


def test_every_symptom_leads_to_a_section_and_every_section_is_led_to():
    links = re.findall(r"\]\(#([^)]+)\)", "\n".join(WORDS))
    sections = [head.replace(" ", "-") for head in re.findall(r"^## (.+)$", "\n".join(WORDS), re.MULTILINE)]
    assert len(links) > 10 and len(set(links)) == len(links)
    assert links == [name for name in sections if name.replace("-", " ") not in NOT_SYMPTOMS]


def test_every_module_that_it_names_is_there():
    modules = set(re.findall(r"python -m ((?:cookbook|data_tools)[\w.]*\w)", "\n".join(WORDS)))
    assert len(modules) > 5
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
