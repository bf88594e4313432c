"""What the full-scale tests share: a base that says little."""

import json
import shutil

import pytest

from cookbook.runs import ROOT


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The tiny base, for which every other word is the end: untrained, it would fill thousands of tokens."""
    place = shutil.copytree(ROOT / "models/tiny-base", tmp_path_factory.mktemp("base") / "silent")
    file = place / "generation_config.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"eos_token_id": [*words["eos_token_id"], *range(0, 600, 2)]}))
    return place
