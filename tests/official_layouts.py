"""Small folders in exactly the layouts that the guide, NVIDIA's datasets and the recipes have, and random samples.

Every clip has its own picture, so that a test sees by content whether an answer still stands beside its clip.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cookbook.data.samples import MEDIA, Sample, message, text
from data_tools.formats import av_folder, hf_rl
from data_tools.worlds import drawing

WORDS = [
    "rain",
    "Straße",
    "晴れ",
    'a "quoted" word',
    "two\nlines",
    "{brace}",
    "<b>",
    "50 %",
    "back\\slash",
    "🚗",
    " gap ",
    "\nlast\n",
]


def clip(path: Path, number: int = 0) -> Path:
    """Writes a clip of 4 frames whose picture depends on the number; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.full((4, 32, 32, 3), 10 + number * 7 % 240, np.uint8)
    frames[:, : 4 + number % 25] = (number * 31) % 256
    drawing.write_mp4(path, frames, 2)
    return path


def picture(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (number * 37 % 256, number % 256, 90)).save(path)
    return path


def json_file(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def av(root: Path, labels: dict[str, dict]) -> Path:
    """The guide's folder."""
    for number, (name, label) in enumerate(labels.items()):
        clip(root / "videos" / f"{name}.camera_front_wide_120fov.mp4", number)
        json_file(root / "metas" / f"{name}.label.json", label)
    return root


def grounding(root: Path, labels: dict[str, list[dict]], key: str = "text", first: int = 0) -> Path:
    """The grounding recipe's folder; `key` names the annotations' file in an entry, `first` the first picture."""
    camera = {"fx": 358.99285463551877, "fy": 540.7505167122987, "cx": 636.54638671875, "cy": 365.6412048339844}
    entries = []
    for number, (name, found) in enumerate(labels.items(), first):
        picture(root / f"images/{name}.png", number)
        told = {"frame_id": 30 * number, "camera": "camera_front", "camera_params": camera, "annotations": found}
        json_file(root / f"text/{name}.json", told)
        entries.append({"id": name, "media": f"images/{name}.png", key: f"text/{name}.json"})
    json_file(root / "meta.json", entries)
    return root


def sft_row(name: str, answer: str = "It lifts the cup.") -> dict:
    turns = [
        {"role": "system", "content": "Answer the questions."},
        {"role": "user", "content": f"What does the robot do in {name}?"},
        {"role": "assistant", "content": answer},
    ]
    return {"video": f"clips/{name}.mp4", "conversations": turns, "metadata": {"num_frames": 4, "uid": f"u-{name}"}}


def rl_row(name: str, choices: dict[str, str], answer: str) -> dict:
    pair = {"question": f"What comes next in {name}?", "index2ans": choices, "answer": answer}
    return {"video": f"clips/{name}.mp4", "qa_pairs": pair}


def sft(root: Path, packed: bool = False) -> Path:
    """nvidia/Cosmos-Reason1-SFT-Dataset: the subset robovqa with both splits, clips beside the rows or packed."""
    names = ["a1", "b2", "c3"]
    for number, name in enumerate(names):
        clip(root / "robovqa/clips" / f"{name}.mp4", number)
    json_file(root / "robovqa/robovqa_understanding.json", [sft_row(name) for name in names])
    thought = "<think>\nIt moves.\n</think>\n\n<answer>\nyes\n</answer>"
    for shard in range(2):
        json_file(root / f"robovqa/robovqa_reasoning_{shard}.json", [sft_row(names[shard], thought)])
    return pack(root / "robovqa", parts=2) and root if packed else root


def rl(root: Path, packed: bool = False) -> Path:
    """nvidia/Cosmos-Reason1-RL-Dataset: questions with two, three and four choices."""
    rows = []
    for number, name in enumerate(["a1", "b2", "c3"]):
        clip(root / "robovqa/clips" / f"{name}.mp4", number)
        choices = dict(list({"A": "lift", "B": "turn", "C": "wait", "D": "push"}.items())[: 2 + number])
        rows.append(rl_row(name, choices, "AB"[number % 2]))
    json_file(root / "robovqa/robovqa_rl_qa_pairs.json", rows)
    return pack(root / "robovqa", parts=1) and root if packed else root


def pack(folder: Path, parts: int) -> Path:
    """Moves the clips of a subset into clips.tar.gz, or into clips/clips_part_*.tar.gz, as on the hub."""
    clips = sorted((folder / "clips").glob("*.mp4"))
    for part in range(parts):
        name = "clips.tar.gz" if parts == 1 else f"clips/clips_part_{part:03d}.tar.gz"
        with tarfile.open(folder / name, "w:gz") as tar:
            for path in clips[part::parts]:
                tar.add(path, f"clips/{path.name}")
    for path in clips:
        path.unlink()
    return folder


# ---- random samples ---------------------------------------------------------------------------------------------


def words(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, 5)).tolist())


def _media(rng: np.random.Generator, pool: dict[str, list[Path]], kind: str | None = None) -> dict:
    kind = kind or str(rng.choice(MEDIA))
    return {"type": kind, kind: str(pool[kind][rng.integers(len(pool[kind]))])}


def _extra(rng: np.random.Generator) -> dict:
    """Fields of a source: of any type, and not the same ones in every row."""
    values = {"category": words(rng), "phase": int(rng.integers(9)), "box": [1, 2.5, "x"], "meta": {"deep": [True]}}
    return {key: value for key, value in values.items() if rng.random() < 0.5}


def _fields(rng: np.random.Generator) -> dict:
    fields = {"label": words(rng), "answer": words(rng), "options": ("Yes", "No"), "extra": _extra(rng)}
    return {key: value for key, value in fields.items() if rng.random() < 0.5}


def caption(rng: np.random.Generator, pool: dict, name: str) -> Sample:
    """A sample that av_folder can hold."""
    label = json.dumps(
        {words(rng): words(rng), "n": int(rng.integers(9)), "x": [None, 0.5]}, indent=2, ensure_ascii=False
    )
    user = message("user", _media(rng, pool, "video"), text(av_folder.QUESTION))
    return Sample(name, name, (user, message("assistant", text(label))))


def dialogue(rng: np.random.Generator, pool: dict, name: str) -> Sample:
    """A sample that hf_sft can hold: one clip that opens the first question, then text only."""
    turns = [message("system", text(words(rng)))] if rng.random() < 0.5 else []
    turns.append(message("user", _media(rng, pool), text(words(rng))))
    turns.append(message("assistant", text(words(rng))))
    for _ in range(rng.integers(0, 3)):
        turns += [message("user", text(words(rng))), message("assistant", text(words(rng)))]
    return Sample(name, f"clip {rng.integers(5)}", tuple(turns), **_fields(rng))


def choice(rng: np.random.Generator, pool: dict, name: str) -> Sample:
    """A sample that hf_rl can hold."""
    choices = {letter: words(rng) for letter in "ABCDE"[: rng.integers(2, 6)]}
    pair = {"question": words(rng), "index2ans": choices, "answer": str(rng.choice(list(choices)))}
    asked = text(hf_rl.prompt(pair["question"], choices))
    sample = Sample(name, f"clip {rng.integers(5)}", (message("user", _media(rng, pool), asked),), pair["answer"])
    label = {"label": words(rng)} if rng.random() < 0.5 else {}
    return replace(sample, options=tuple(choices), extra={"qa_pairs": pair} | _extra(rng), **label)


def mixed(rng: np.random.Generator, pool: dict, name: str) -> Sample:
    """A sample that llava can hold: clips and images anywhere in any question."""
    turns = [message("system", text(words(rng)))] if rng.random() < 0.5 else []
    for _ in range(rng.integers(1, 4)):
        parts: list[dict] = []
        for _ in range(rng.integers(1, 5)):
            wants_text = rng.random() < 0.5 and (not parts or parts[-1]["type"] != "text")
            parts.append(text(words(rng)) if wants_text else _media(rng, pool))
        turns += [message("user", *parts), message("assistant", text(words(rng)))]
    return Sample(name, f"clip {rng.integers(5)}", tuple(turns), **_fields(rng))


def by_content(samples: list[Sample]) -> list[Sample]:
    """Returns the samples with the bytes of each clip in place of its path: equal wherever the clips lie."""
    shown = []
    for sample in samples:
        turns = tuple(
            message(m["role"], *(p | {k: Path(p[k]).read_bytes() for k in MEDIA if k in p} for p in m["content"]))
            for m in sample.messages
        )
        shown.append(replace(sample, messages=turns))
    return shown
