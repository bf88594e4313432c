"""Forms of one model beside each other, and the commands that lead there: quantise, compare, card, push."""

import json
import shutil
from dataclasses import replace

import pytest

from cookbook.checkpoint import CheckpointError
from cookbook.deploy.__main__ import main
from cookbook.deploy.compare import Asked, compare_forms
from cookbook.deploy.quantise import form_of
from cookbook.display.tables import verdicts
from data_tools import formats


def asked(right, contract="c"):
    """Answers to as many questions as `right` has marks, each about a clip of its own: 1 is right."""
    rows = [
        {"id": str(i), "question": "?", "reference": "A", "group": str(i), "contract": contract, "output": mark,
         "correct": mark == "1"}
        for i, mark in enumerate(right)
    ]  # fmt: skip
    return Asked(rows, 5_000_000, None, 100.0)


def test_each_form_is_judged_by_a_margin_that_was_set_before(capsys):
    full = "1" * 200 + "0" * 100
    forms = {"full": asked(full), "same": asked(full), "worse": asked("1" * 120 + "0" * 180)}
    found = compare_forms(forms, margin=0.05)
    assert [one.holds for one in found.found.values()] == [True, False]
    verdicts(found.verdicts())
    said = capsys.readouterr().out
    assert "held     same answers as well as full, within 5 points at 95 %" in said
    assert "NOT held worse" in said and "loses more than the margin" in said
    assert "200 of 300" in repr(found) and "5.00" in repr(found)


def test_few_questions_show_nothing(capsys):
    found = compare_forms({"full": asked("1" * 20), "int8": asked("1" * 20)}, margin=0.05)
    verdicts(found.verdicts())
    assert found.found["int8"].holds is None
    assert f"try: ask about {found.found['int8'].needed} questions" in capsys.readouterr().out


def test_other_items_or_contracts_are_not_compared():
    with pytest.raises(ValueError, match="did not answer the same items"):
        compare_forms({"full": asked("11"), "int8": asked("111")})
    with pytest.raises(ValueError, match="do not compare"):
        compare_forms({"full": asked("11"), "int8": asked("11", "other")})
    for row in (none := asked("00")).rows:
        row["reference"] = None
    with pytest.raises(ValueError, match="no question has a reference"):
        compare_forms({"full": none, "int8": none})


def test_the_commands_lead_from_a_checkpoint_to_an_upload(full, tmp_path, samples, capsys):
    formats.write(samples[:6], tmp_path / "own", "samples_jsonl")
    small, forms = str(tmp_path / "small"), [f"full={full}", f"int8={tmp_path / 'small'}"]
    assert main(["quantise", str(full), small, "--form", "float8"]) == 0
    assert main(["quantise", str(full), small]) == 0  # takes the place of the other form
    compare = ["compare", *forms, f"served=serve:{small}", "--data", str(tmp_path / "own"), "--out", str(tmp_path)]
    assert main([*compare, "--margin", "0.9"]) == 0
    said = capsys.readouterr().out
    assert said.count("held     ") == 2 and "of 6" in said
    assert {p.name for p in tmp_path.glob("*.jsonl")} == {f"predictions_{n}.jsonl" for n in ("full", "int8", "served")}
    scored = ["--evaluation", str(tmp_path / "comparison.json"), "--model", "int8"]
    assert main(["card", small, "--repo", "me/road", "--licence", "apache-2.0", *scored]) == 0
    assert "int8 answers as well as full, within 90 points" in (tmp_path / "small" / "README.md").read_text()
    assert main(["push", small, "--repo", "me/road"]) == 0
    assert "would be sent" in capsys.readouterr().out


@pytest.mark.fault("inputs")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("quantise nowhere OUT", "there is no such folder"),
        ("serve FULL --ours --host 0.0.0.0", "add --open"),
        ("quantise FULL OUT --form w4a16", "is of no run, and w4a16 is calibrated on what a run was trained on"),
        ("compare full=FULL int8=FULL", "is of no run, and without --data a run's unseen clips are asked"),
        ("compare full=FULL", "takes two forms or more"),
        ("compare full=FULL full=FULL", "each with a name of its own"),
        ("compare full=FULL int8=nowhere", "there is no such folder"),
        ("compare full=FULL int8=serve:nowhere", "there is no such folder"),
        ("compare full=FULL int8=FULL --margin nan", "takes a share of right answers above 0 and below 1"),
        ("serve models/tiny-base --line vllm", "carries no contract.yaml; name one with --contract"),
        ("card FULL --repo me/road", "name it with --licence"),
        ("push FULL --repo road", "it is OWNER/NAME"),
        ("serve FULL --ours --port 80000", "port 80000 of 127.0.0.1 cannot be taken"),
        ("card FULL --repo me/road --licence apache-2.0 --evaluation OUT.json --model x", "holds no accuracy of x"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, said, full, tmp_path, capsys):
    (tmp_path / "out.json").write_text('{"models": {"x": 5}, "tasks": {}}')
    given = words.replace("FULL", str(full)).replace("OUT", str(tmp_path / "out")).split()
    assert main(given) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_questions_without_references_are_refused_before_any_form_is_asked(
    full, tmp_path, samples, capsys, monkeypatch
):
    formats.write([replace(sample, answer=None) for sample in samples[:4]], tmp_path / "own", "samples_jsonl")
    monkeypatch.setattr("cookbook.deploy.compare.ask_form", lambda *_: pytest.fail("it was asked"))
    assert main(["compare", f"full={full}", f"int8={full}", "--data", str(tmp_path / "own")]) == 2
    assert "no question has a reference" in capsys.readouterr().err


def test_lines_are_printed_and_nothing_is_started(full, tmp_path, capsys):
    for where in ("vllm", "docker", "jetson", "nim"):
        assert main(["serve", str(full), "--line", where, "--name", "x"]) == 0
    assert main(["quantise", str(full), str(tmp_path / "fp8"), "--form", "fp8-dynamic"]) == 0
    said = capsys.readouterr().out
    assert "make deploy-env" in said and "--scheme FP8_DYNAMIC" in said and said.count("docker run") == 3


def test_w4a16_is_calibrated_on_the_training_split_of_its_run(full, tmp_path, samples, contract, capsys, monkeypatch):
    run, out = tmp_path / "run", str(tmp_path / "w4")
    shutil.copytree(full, run / "safetensors" / "step_1")
    (run / "manifest.json").write_text("{}")
    (run / "config.toml").write_text("")
    asked = []
    monkeypatch.setattr(
        "cookbook.jobs.evaluation_samples", lambda *how: asked.append(how) or (samples[:4], contract, "")
    )
    assert main(["quantise", str(run), out, "--form", "w4a16"]) == 0
    assert asked == [("", "", "", "", "train", str(run / "config.toml"))]
    assert f"--scheme W4A16 --calibration {out}.calibration\n" in capsys.readouterr().out


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("said", ["int8", {"config_groups": [1]}, {"config_groups": {"a": {}}}])
def test_another_form_in_config_json_is_refused(said, full, tmp_path):
    shutil.copytree(full, copy := tmp_path / "copy")
    stated = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(stated | {"quantization_config": said}))
    with pytest.raises(CheckpointError, match="quantised in another form"):
        form_of(copy)
