"""A model is filled from its files and a processor fits it, or one line says where not."""

import json
import re
import shutil

import pytest
import torch
from checkpoint_makers import BASE
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cookbook.checkpoint import CheckpointError, load, write_checkpoint
from cookbook.checkpoint.filled import load_model, load_processor
from cookbook.checkpoint.verify import verify

pytestmark = pytest.mark.fault("local engine")


@pytest.fixture
def copy(tmp_path):
    """A copy of the tiny base, to be damaged."""
    return shutil.copytree(BASE, tmp_path / "copy")


def rewrite(folder, change):
    """Change the weights, and take away the index, which would tell before anything is loaded."""
    (folder / "model.safetensors.index.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_are_missing_unexpected_or_of_another_shape_are_named_and_counted(copy, capfd):
    def change(tensors):
        for name in [n for n in tensors if n.endswith("up_proj.weight")]:
            del tensors[name]
        tensors["model.layers.0.extra"] = torch.zeros(3)
        tensors["model.norm.weight"] = torch.zeros(7)

    rewrite(copy, change)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    words = str(caught.value)
    assert "7 missing: " in words and "and 4 more" in words and "1 unexpected: model.l" in words
    assert "1 of another shape: model.language_model.norm.weight" in words and "\n" not in words
    shown = capfd.readouterr()
    assert "newly initialized" not in shown.err + shown.out


def test_a_weight_that_is_no_number(copy):
    rewrite(copy, lambda tensors: tensors["model.norm.weight"].__setitem__(3, float("nan")))
    with pytest.raises(CheckpointError, match=r"NaN or infinity in model\.language_model\.norm\.weight"):
        load(copy)


def test_a_lm_head_that_is_not_tied_must_be_there(copy):
    told = json.loads((copy / "config.json").read_text())
    told["text_config"]["tie_word_embeddings"] = told["tie_word_embeddings"] = False
    (copy / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"1 missing: lm_head\.weight"):
        load_model(copy)


def test_a_lm_head_that_a_tied_model_would_leave_out_must_be_the_embeddings(copy):
    rewrite(copy, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    load_model(copy)
    (copy / "model.safetensors.index.json").touch()
    rewrite(copy, lambda tensors: tensors | {"lm_head.weight": torch.ones_like(tensors["model.embed_tokens.weight"])})
    with pytest.raises(CheckpointError, match=r"lm_head.* is another than the embeddings"):
        load_model(copy)


def edited(file, change):
    def damage(folder):
        told = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(told) or told))

    return damage


def swapped(told):
    words = told["model"]["vocab"]
    words["!"], words['"'] = words['"'], words["!"]


def more(told):
    told["added_tokens"].append({**told["added_tokens"][-1], "id": 640, "content": "<|more|>"})


def renamed(old, new, files="*token*.json"):
    def damage(folder):
        for file in folder.glob(files):
            file.write_text(file.read_text().replace(old, new))

    return damage


def sections(parts):
    def damage(folder):
        told = json.loads((folder / "config.json").read_text())
        told["text_config"]["rope_scaling"]["mrope_section"] = parts
        (folder / "config.json").write_text(json.dumps(told))

    return damage


WRONG = {
    "two tokens changed places": (edited("tokenizer.json", swapped), "vocab.json number 2 tokens differently"),
    "more tokens than rows": (edited("tokenizer.json", more), "counts to 640, but the model embeds 640"),
    "another video token": (edited("config.json", lambda c: c | {"video_token_id": 638}), "video token is 639"),
    "another end": (edited("generation_config.json", lambda c: c | {"eos_token_id": 5}), "ends a turn with 632"),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    "a broken template": (lambda folder: (folder / "chat_template.jinja").write_text("{% for"), "does not load"),
    "a template without a clip": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][2]['text'] }}"),
        r"loses or repeats <\|image_pad\|>, <\|video_pad\|>"),
    "a template that runs code": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "does not load"),
    "another patch size": (edited("preprocessor_config.json", lambda c: c | {"patch_size": 16}), "patch_size is 16"),
    "another patch size for clips": (
        edited("video_preprocessor_config.json", lambda c: c | {"patch_size": 28}),
        "video processor's patch_size is 28"),
    "another class": (edited("preprocessor_config.json", lambda c: c | {"image_processor_type": "X"}), "processor"),
    "a tokenizer that is cut": (lambda folder: (folder / "tokenizer.json").write_text('{"version"'), "does not load"),
    "another added token": (
        renamed("<|vision_pad|>", "<|other_pad|>", "[!a]*.json"),
        r"added_tokens\.json number 1 tokens differently, such as '<\|vision_pad\|>'"),
    "a lost token": (edited("tokenizer.json", lambda t: t["added_tokens"].pop(5) and None), "image token is 637"),
    "rotary positions of another model": (
        sections([16, 24, 24]), r"mrope_section \[16, 24, 24\] is not made of the 16 pairs that a head has"),
    "a renamed token": (renamed("<|video_pad|>", "<|clip_pad|>"), "the"),
}  # fmt: skip


@pytest.mark.parametrize("damage, words", WRONG.values(), ids=WRONG)
def test_a_processor_that_does_not_fit_the_model_is_refused_in_one_line(copy, damage, words):
    damage(copy)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_processor(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def another_text(folder):
    """All of one piece, so that only the base can tell: two tokens, a template, and a mean of pixels."""
    for file in ("tokenizer.json", "vocab.json"):
        told = json.loads((folder / file).read_text())
        swapped(told if "model" in told else {"model": {"vocab": told}})
        (folder / file).write_text(json.dumps(told))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful assistant.", "You are a pirate."))
    edited("preprocessor_config.json", lambda c: c | {"image_mean": [0, 0, 0]})(folder)
    edited("video_preprocessor_config.json", lambda c: c | {"rescale_factor": 1.0})(folder)


OTHER = "2 tokens, such as.* and the images' image_mean and the videos' rescale_factor and the chat template"


def test_verify_compares_tokenizer_template_and_pixels_with_the_bases(copy):
    another_text(copy)
    load_processor(copy)
    found = verify(copy, BASE)["text of the base"]
    assert found.status == "error" and re.search(f"differs from .*tiny-base in {OTHER}", found.found), found


def test_an_export_with_another_tokenizer_than_its_start_is_not_loaded(copy):
    export = shutil.copytree(copy, copy.parent / "run" / "safetensors" / "step_4")
    (export.parents[1] / "manifest.json").write_text(json.dumps({"start": "models/tiny-base", "outcome": "finished"}))
    load(export)
    another_text(export)
    with pytest.raises(CheckpointError, match=f"{export}: differs from its start in {OTHER}.*models/tiny-base") as said:
        load(export)
    assert "\n" not in str(said.value)


FULL = [
    ("torch.nn.Module.state_dict", OSError(28, "No space left on device")),
    ("transformers.PreTrainedModel.save_pretrained", SafetensorError('Os { code: 28, message: "No space left" }')),
    ("transformers.ProcessorMixin.save_pretrained", Exception("No space left on device (os error 28)")),
    ("cookbook.checkpoint.store.os.fsync", OSError(28, "No space left on device")),
]


@pytest.mark.parametrize(("where", "error"), FULL, ids=[where for where, _ in FULL])
def test_a_full_disk_leaves_the_earlier_export_and_nothing_half_made(where, error, tmp_path, monkeypatch):
    model, processor, place = load_model(BASE), load_processor(BASE), tmp_path / "safetensors" / "step_2"
    write_checkpoint(model, processor, place, torch.float32)
    before = {file.name: file.read_bytes() for file in place.iterdir()}

    def full(*_, **__):
        raise error

    monkeypatch.setattr(where, full)
    with pytest.raises(CheckpointError, match=f"{place}: cannot be written; make room there.*No space left") as said:
        write_checkpoint(model, processor, place, torch.float32)
    monkeypatch.undo()
    assert "\n" not in str(said.value) and [file.name for file in place.parent.iterdir()] == ["step_2"]
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
