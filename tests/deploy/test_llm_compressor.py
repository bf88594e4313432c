"""The real script of llm-compressor, in its own environment, where that was made: what it writes is read here.

make deploy-env; python -m pytest -m slow tests/deploy/test_llm_compressor.py
"""

import shutil
import subprocess

import pytest
import torch

from cookbook.checkpoint.lineage import lineage
from cookbook.deploy.quantise import BY_LLM_COMPRESSOR, MATRIX, SCRIPT, calibration, form_of, open_form, tensors_of
from cookbook.runs import ROOT

PYTHON = ROOT / ".venv-deploy/bin/python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON.exists(), reason="there is no .venv-deploy; `make deploy-env` makes it"),
]
LOST = 0.5  # of a matrix's norm; GPTQ moves one weight by more than a step, to make up for others


@pytest.mark.parametrize(("form", "base"), [
    *((form, "models/tiny-base") for form in BY_LLM_COMPRESSOR), ("w4a16", "models/tiny-qwen3"),
])  # fmt: skip
def test_what_the_script_writes_is_read_here_and_answers_nearly_as_before(form, base, request, samples, tmp_path):
    bound = request.getfixturevalue("contract" if base == "models/tiny-base" else "contract3")
    bound.save(shutil.copytree(ROOT / base, tmp_path / "full") / "contract.yaml")
    line = [PYTHON, SCRIPT, tmp_path / "full", tmp_path / form, "--scheme", form.upper().replace("-", "_")]
    if form == "w4a16":
        line += ["--calibration", calibration(samples, bound, tmp_path / "full", tmp_path / "clips", count=4)]
    done = subprocess.run([*map(str, line)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert form_of(tmp_path / form)[1] is BY_LLM_COMPRESSOR[form]
    assert [stage.kind for stage in lineage(tmp_path / form)] == ["base", form]

    (full, encoder), (model, _) = open_form(tmp_path / "full"), open_form(tmp_path / form)
    batch = encoder.training_batch(samples[:2])
    with torch.no_grad():
        before, after = (each(**batch).logits for each in (full, model))
    assert (before.argmax(-1) == after.argmax(-1)).float().mean() > 0.8
    kept, weights = tensors_of(tmp_path / "full"), model.state_dict()
    assert all(torch.equal(kept[n], t) for n, t in tensors_of(tmp_path / form).items() if n in kept and t.ndim == 1)
    for name in filter(MATRIX.fullmatch, kept):
        new = weights[f"model.language_model.{MATRIX.fullmatch(name)[1]}.weight"].dequantize()
        assert (new - kept[name].float()).norm() < LOST * kept[name].float().norm(), name
