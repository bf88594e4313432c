"""What the full-scale tests share: a base that says little."""

import json
import shutil

import pytest
from small_recipes import BASES

from cookbook.runs import ROOT


@pytest.fixture(scope="module", params=[BASES[0], pytest.param(BASES[1], marks=pytest.mark.slow)])
def silent(request, tmp_path_factory):
    """A tiny base, for which every other word is the end: untrained, it would fill thousands of tokens."""
    place = shutil.copytree(ROOT / request.param, tmp_path_factory.mktemp("base") / "silent")
    file = place / "generation_config.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"eos_token_id": [*words["eos_token_id"], *range(0, 600, 2)]}))
    return place
