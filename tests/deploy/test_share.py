"""Cards and uploads: what a card says, that the hub's own reader takes it, what is sent, and what is refused."""

import shutil

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from cookbook.checkpoint import CheckpointError
from cookbook.deploy import share
from cookbook.deploy.share import licence_of, model_card, push, write_card
from cookbook.runs import RunError

REPO = "somebody/road"
SCORE = {
    "n": 300, "accuracy": 0.8133, "ci95": [0.765, 0.853], "clusters": 60, "ci95_clustered": [0.75, 0.86],
    "unread_rate": 0.12, "tasks": {"signal": {"n": 150, "accuracy": 0.9, "ci95": [0.84, 0.94]},
                                   "cause": {"n": 150, "accuracy": 0.5, "ci95": [0.42, 0.58]}},
}  # fmt: skip
COMPARISON = {"chance": 0.46, "models": {"rl": SCORE}, "tasks": {"signal": {"chance": 0.5}, "cause": {"chance": 0.5}}}


@pytest.fixture
def folder(forms, tmp_path):
    return shutil.copytree(forms["int8"], tmp_path / "int8")


@pytest.fixture
def written(folder, contract):
    write_card(model_card(folder, REPO, contract, COMPARISON, "rl", "apache-2.0"), folder)
    return folder


def test_the_card_is_read_by_the_hubs_own_reader_and_says_what_was_measured(written, contract):
    card = ModelCard.load(written / "README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "video-text-to-text"
    _, (found,) = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert found.metric_value == 0.8133 and "75.0–86.0" in found.metric_name and found.dataset_split == "test"
    assert "base_model" not in card.data.to_dict()  # a folder is no model of the hub
    assert contract.system in card.text and contract.hash in card.text and "vllm serve FOLDER" in card.text
    assert "`: 81.3% of 300 questions on 60 unseen clips" in card.text and "| int8 |" in card.text


def test_the_card_names_what_the_model_cannot_do(folder, contract):
    said = ["int8 answers as well as full, within 5 points at 95 %"]
    text = model_card(folder, REPO, contract, COMPARISON | {"verdicts": said}, "rl", "mit").text
    limits = text[text.index("## Known limits") :]
    assert "cause: not shown to be better than guessing" in limits and "signal" not in limits
    assert "12% of its answers could not be read" in limits and f"- {said[0]}" in text
    assert "Not evaluated." in model_card(folder, REPO, contract, licence="mit").text


def test_the_licence_of_the_base_is_kept(full, tmp_path):
    base = shutil.copytree(full, tmp_path / "base")
    own = "license: other\nlicense_name: nvidia-open-model-license\nlicense_link: https://example.org/licence"
    (base / "README.md").write_text(f"---\n{own}\n---\n# Base\n")
    assert licence_of(str(base)) == dict(line.split(": ") for line in own.splitlines())
    with pytest.raises(ValueError, match=r"^--licence mit: the base is under other"):
        licence_of(str(base), "mit")
    with pytest.raises(ValueError, match="names its licence; name it with --licence"):
        licence_of(str(full))


def test_a_dry_run_needs_no_account_and_lists_what_is_sent(written, monkeypatch):
    monkeypatch.setattr(share, "HfApi", None)  # not even made
    (written / "optimizer.pt").write_bytes(b"state")
    (written / "notes").mkdir()
    (written / "notes" / "clip.mp4").write_bytes(b"clip")
    table = push(written, REPO)
    kinds = {name: kind for name, _, kind in table.rows}
    assert {name for name, kind in kinds.items() if kind == "stays here"} == {
        "optimizer.pt", "notes/clip.mp4", "manifest.json", "pretraining.json"
    }  # fmt: skip
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "contract.yaml"} <= kinds.keys()
    assert dict((name, size) for name, size, _ in table.rows)["model.safetensors"] > 1_000_000


def test_really_sends_just_that(written, monkeypatch):
    calls = {}

    class Hub:
        def create_repo(self, repo, **how):
            calls["repo"] = repo, how

        def upload_folder(self, **how):
            calls["upload"] = how

    monkeypatch.setattr(share, "HfApi", Hub)
    sent = {name for name, _, kind in push(written, REPO, really=True).rows if kind == "is sent"}
    assert calls["repo"] == (REPO, {"private": True, "exist_ok": True})
    assert set(calls["upload"]["allow_patterns"]) == sent and not [
        name for name in sent if name.endswith((".pt", ".bin"))
    ]


@pytest.mark.fault("security")
@pytest.mark.parametrize(
    ("line", "said"),
    [("token: hf_" + "a1" * 17, "looks like a key"), ("-----BEGIN RSA PRIVATE KEY-----", "looks like a key"),
     ("clips in /home/somebody/clips", "a path of this machine"), ("nvapi-" + "x" * 40, "looks like a key")],
)  # fmt: skip
def test_secrets_and_paths_are_not_sent(written, line, said):
    card = written / "README.md"
    card.write_text(card.read_text() + f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"README\.md:\d+: holds .*{said}"):
        push(written, REPO)


@pytest.mark.fault("inputs")
def test_what_cannot_be_shared_is_one_line(folder, full, contract, monkeypatch):
    with pytest.raises(CheckpointError, match=r"has no README\.md; write one"):
        push(folder, REPO)
    (folder / "README.md").write_text("# A card without a head\n")
    with pytest.raises(ValueError, match="names no licence"):
        push(folder, REPO)
    for repo in ("road", "a/b/c", "some body/road"):
        with pytest.raises(ValueError, match="it is OWNER/NAME") as error:
            push(folder, repo)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="--model sft: was not evaluated; the comparison has rl"):
        model_card(folder, REPO, contract, COMPARISON, "sft", "mit")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cookbook.runs.os.fsync", full_disk)
    with pytest.raises(RunError, match=r"No space left on device.*make room"):
        write_card(model_card(folder, REPO, contract, licence="mit"), folder)
