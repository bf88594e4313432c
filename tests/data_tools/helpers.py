"""What several tests of the data tools share: small samples, configurations, and how a passport is asked for."""

from pathlib import Path

from cookbook.config import Config
from cookbook.data.samples import Sample, message, text
from data_tools.formats.av_folder import LABEL_SUFFIX, VIDEO_SUFFIX
from data_tools.passport import passport, read_layout
from data_tools.passport.clips import ClipFacts


def user_text(sample):
    return [part["text"] for m in sample.messages if m["role"] == "user" for part in m["content"] if "text" in part]


def clip_name(sample):
    return [path.name for _, path in sample.media()]


def llava_item(value="<video>\nWhat?", **fields):
    item = {"video": "v/0.mp4", "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "Rain."}]}
    return {"id": "x", **item, **fields}


def shape(sample):
    return [[part.get("text", part["type"]) for part in m["content"]] for m in sample.messages]


TOML = """
[train]
output_dir = "out"
[train.train_policy]
type = "{kind}"
mini_batch = {mini_batch}
[train.train_policy.dataset]
name = "{name}"
{dataset}
[validation]
enable = {validation}
{more}
[policy]
model_name_or_path = "models/tiny-base"
[custom]
contract = "{contract}"
{custom}
"""

CONTRACT = "configs/prompts/captions.yaml"
VISION = {"fps": 1, "min_pixels": 3136, "max_pixels": 81920, "max_frames": 768}


def toml(
    name, kind="sft", dataset="test_size = 0", validation=True, more="", custom="", mini_batch=2, contract=CONTRACT
):
    words = {
        "mini_batch": mini_batch,
        "name": str(name),
        "kind": kind,
        "dataset": dataset,
        "more": more,
        "custom": custom,
        "contract": contract,
    }
    return TOML.format(validation=str(validation).lower(), **words)


def config(*args, **kwargs):
    return Config.parse(toml(*args, **kwargs), "x.toml")._checked()


TRAIN, TEST = ("a0", "a1", "a2", "a3"), ("t0", "t1")
BAD = "bad"


def check(data, **how):
    """The passport of a folder, or of what `read_layout` found in one."""
    return passport(read_layout(data) if isinstance(data, Path) else data, cache=None, workers=0, **how)


def keys(found, folder) -> dict[str, set[str]]:
    """The ids that may be used, by split."""
    return {split: {r.id for r in rows} for split, rows in found.usable(read_layout(folder).samples).items()}


def clip(folder, key=BAD, split="train") -> Path:
    return folder / split / "videos" / f"{key}{VIDEO_SUFFIX}"


def meta(folder, key=BAD, split="train") -> Path:
    return folder / split / "metas" / f"{key}{LABEL_SUFFIX}"


def sample(key="r", video="x.mp4", question="What?", target="It rains.", **more) -> Sample:
    turns = [message("user", {"type": "video", "video": str(video)}, text(question))]
    turns += [] if target is None else [message("assistant", text(target))]
    return Sample(key, more.pop("group", key), tuple(turns), **more)


def of(*samples: Sample, **how):
    return passport({"train": samples}, cache=None, workers=0, **how)


def codes(facts: ClipFacts) -> set[str]:
    return {finding.code for finding in facts.findings}


def text_file(path, words="no video at all\n" * 50):
    path.write_text(words)
    return path
