"""Inference: the weights that are named answer, under their own contract, and a wrong path is one line."""

import hashlib
import json
import shutil

import pytest
import torch
from pace import linear, many
from PIL import Image

from cookbook import checkpoint, inference
from cookbook.checkpoint import CheckpointError
from cookbook.data.contract import Contract, ContractError
from cookbook.data.encoder import Encoder
from cookbook.data.video import VideoError
from cookbook.evaluation.predict import predict
from cookbook.inference import ask, main, side_by_side
from cookbook.runs import ROOT

BASE, ROAD = "models/tiny-base", "configs/prompts/road.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose export differs from the base and brings the contract of the road world."""
    run = tmp_path_factory.mktemp("run")
    model, processor = checkpoint.load(BASE)
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(-1)
    checkpoint.export(model, Encoder(processor, Contract.load(ROOT / ROAD), model.config), run, 3)
    return run


def test_the_answer_is_that_of_the_evaluation(samples, contract):
    sample = samples[0]
    found = ask(BASE, sample.question, video=[sample.video], contract=ROAD, max_new_tokens=12)
    model, processor = checkpoint.load(BASE)
    row = predict(model, Encoder(processor, contract, model.config), [sample], "base", limit=12)[0]
    assert found.completion == row["output"] and found.completion


def test_it_says_which_weights_answered(samples, trained):
    sample = samples[0]
    base = ask(BASE, sample.question, video=[sample.video], contract=ROAD, max_new_tokens=8)
    other = ask(trained, sample.question, video=[sample.video], max_new_tokens=8)
    shard = trained / "safetensors" / "step_3" / "00000.safetensors"
    assert other.weights.folder == str(shard.parent) and other.weights.shard == shard.name
    assert other.weights.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()[:12] != base.weights.sha256
    assert base.weights.folder == BASE and base.weights.contract_file == ROAD
    assert other.weights.contract == base.weights.contract == Contract.load(ROOT / ROAD).hash
    assert other.weights.contract_file == "contract.yaml"
    assert other.completion != base.completion  # the path that was given was loaded
    if not torch.cuda.is_available():
        assert (base.weights.dtype, base.weights.device) == ("float32", "cpu")


def test_several_models_answer_side_by_side(samples, trained, tmp_path):
    sample, how = samples[0], {"contract": ROAD, "max_new_tokens": 8}
    table = side_by_side({"base": BASE, "sft": trained}, sample.question, sample.video, **how)
    alone = [ask(path, sample.question, video=[sample.video], **how) for path in (BASE, trained)]
    assert [row[0] for row in table.rows] == ["base", "sft"] and table.title == sample.question
    assert [row[2] for row in table.rows] == [" ".join(found.completion.split()) for found in alone]
    Image.new("RGB", (56, 56), "red").save(tmp_path / "still.png")
    (row,) = side_by_side({"base": BASE}, "Which colour?", tmp_path / "still.png", **how).rows
    alone = ask(BASE, "Which colour?", image=[tmp_path / "still.png"], **how)
    assert row[2] == " ".join(alone.completion.split())
    with pytest.raises(VideoError, match=r"nothing\.mp4"):
        side_by_side({"base": BASE}, "?", tmp_path / "nothing.mp4", **how)


def test_the_contract_is_its_own_else_the_one_given_else_that_of_captions(samples, trained):
    clip = samples[0].video
    assert ask(BASE, video=[clip], max_new_tokens=1).weights.contract_file == "configs/prompts/captions.yaml"
    assert ask(trained, video=[clip], contract=ROAD, max_new_tokens=1).weights.contract_file == "contract.yaml"
    with pytest.raises(ContractError, match=r"answer_format: 'think_answer' there, 'text' here"):
        ask(trained, video=[clip], contract="configs/prompts/captions.yaml")


def test_reasoning_and_answer_are_read_by_the_contract(samples, monkeypatch):
    words = "<think>They meet.</think>\n\n<answer>(b)</answer>"
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.decode", lambda *_, **__: words)
    question = "What happens?\nA) nothing\nB) they touch"
    found = ask(BASE, question, video=[samples[0].video], contract=ROAD, max_new_tokens=1)
    assert (found.reasoning, found.answer) == ("They meet.", "B")
    assert "reasoning   They meet." in str(found) and "answer      B" in str(found)
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.decode", lambda *_, **__: "<answer>they touch</answer>")
    by_words = ask(BASE, question, video=[samples[0].video], contract=ROAD, max_new_tokens=1)
    assert (by_words.reasoning, by_words.answer) == (None, "B")
    plain = ask(BASE, question, video=[samples[0].video], contract="configs/prompts/captions.yaml", max_new_tokens=1)
    assert plain.weights.contract != found.weights.contract


@pytest.mark.fault("load")
def test_a_thought_that_begins_again_and_again_is_read_in_linear_time():
    assert inference.thought("<think>" * 500_000) is None
    assert linear(inference.thought, many("<think>"), 1_000_000)
    assert inference.thought("so <think> they meet </think> x <think>no</think>") == "they meet"


def test_an_image_is_seen_too(tmp_path):
    Image.new("RGB", (56, 56), "red").save(tmp_path / "red.png")
    found = ask(BASE, "What colour?", image=[tmp_path / "red.png"], contract=ROAD, max_new_tokens=4)
    assert found.completion


def test_what_cannot_be_used_raises_what_it_is(tmp_path, samples):
    clip = samples[0].video
    with pytest.raises(CheckpointError, match="no such folder"):
        ask(tmp_path / "nowhere", video=[clip])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ask(tmp_path, video=[clip])
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nvidia/Cosmos-Reason1-7B"}')
    with pytest.raises(CheckpointError, match="LoRA adapter of nvidia/Cosmos-Reason1-7B"):
        ask(tmp_path, video=[clip])
    with pytest.raises(VideoError, match="nowhere"):
        ask(BASE, video=[tmp_path / "nowhere.mp4"])


def test_a_bad_clip_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"not a clip")
    monkeypatch.setattr(checkpoint, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(VideoError):
        ask(BASE, video=[tmp_path / "bad.mp4"])


def cut_off(folder):
    file = shutil.copytree(ROOT / BASE, folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return folder


@pytest.mark.parametrize("wrong", ["path", "clip", "image", "contract", "weights"])
def test_the_command_says_in_one_line_what_is_wrong(wrong, tmp_path, samples, capsys):
    (tmp_path / "bad").write_bytes(b"nothing: of use")
    arguments = {"--model_path": BASE, "--video": str(samples[0].video)}
    if wrong == "path":
        arguments["--model_path"] = str(tmp_path / "nowhere")
    elif wrong == "weights":
        arguments["--model_path"] = str(cut_off(tmp_path / "cut"))
    elif wrong == "contract":
        arguments["--contract"] = str(tmp_path / "bad")
    else:
        arguments |= {f"--{'video' if wrong == 'clip' else 'image'}": str(tmp_path / "bad")}
    assert main([part for pair in arguments.items() for part in pair]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.strip().splitlines()) == 1 and not shown.out


def test_the_command_reads_a_clip_from_where_it_is_given(tmp_path, samples, monkeypatch, capsys):
    shutil.copyfile(samples[0].video, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    arguments = ["--model_path", BASE, "--video", "clip.mp4", "--contract", ROAD, "--max_new_tokens", "5"]
    assert main([*arguments, "--question", "Do they touch?", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights"]["folder"] == BASE and found["question"] == "Do they touch?" and "completion" in found
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("weights     models/tiny-base\nsha256")


@pytest.mark.parametrize("arguments", [[], ["--max_new_tokens", "0", "--video", "x.mp4"]])
def test_an_incomplete_command_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(["--model_path", BASE, *arguments])
    assert "--" in capsys.readouterr().err
