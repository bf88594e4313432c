"""The contract: what the model is told, how it must answer, and what it sees of a clip.

Why: half of all bad results come from a prompt, a frame rate or an answer parser that differs between training and
evaluation. Here the three stand in one small file (`configs/prompts/*.yaml`) with one hash, and every step reads it.

    contract = Contract.load("configs/prompts/road.yaml")
    contract.conversation("clip.mp4", "Does this video show a collision? [Yes/No]")
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

# the same shape as the format reward of cosmos-rl 0.4.7: exactly one empty line between the two tags
WELL_FORMED = re.compile(r"<think>((?:(?!</?think>).)*)</think>\n\n<answer>(.*?)</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Vision:
    """What the model sees of a clip: frames per second, and the range of pixels per frame (height × width)."""

    fps: float
    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class Contract:
    """System prompt, answer format and vision limits; immutable, with a hash."""

    system: str
    answer_format: str
    vision: Vision

    @classmethod
    def load(cls, path: str | Path) -> "Contract":
        """Read a contract file. Raises ValueError for missing or unknown keys, naming them."""
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        vision = data.pop("video", {})
        for found, wanted in (
            (data, {"system", "answer_format"}),
            (vision, {"fps", "min_pixels", "max_pixels"}),
        ):
            if set(found) != wanted:
                raise ValueError(f"{path}: expected the keys {sorted(wanted)}, found {sorted(found)}")
        if data["answer_format"] != "think_answer":
            raise ValueError(f"{path}: answer_format is {data['answer_format']!r}; the one known is 'think_answer'")
        return cls(**data, vision=Vision(**vision))

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change when any word or limit changes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def conversation(self, video: str | Path, question: str, target: str | None = None) -> list[dict]:
        """Returns the chat messages that cosmos-rl loaders yield; with `target`, the assistant's turn too."""
        clip = {"type": "video", "video": str(video), **asdict(self.vision)}
        messages = [
            {"role": "system", "content": [{"type": "text", "text": self.system}]},
            {"role": "user", "content": [clip, {"type": "text", "text": question}]},
        ]
        if target is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": target}]})
        return messages


def write_answer(reasoning: str, answer: str) -> str:
    """Returns the canonical completion: the reasoning in <think>, an empty line, the answer in <answer>."""
    return f"<think>{reasoning}</think>\n\n<answer>{answer}</answer>"


def is_well_formed(completion: str) -> bool:
    """Whether the completion is exactly one reasoning block, an empty line and one answer block."""
    return WELL_FORMED.fullmatch(completion) is not None


def read_answer(completion: str, options: tuple[str, ...]) -> str | None:
    """Returns the option that the completion's last <answer> states, or None where it states none.

    Case, brackets and a final full stop do not matter: "(b)", "B." and "b) rain" all state B.
    """
    stated = ANSWER.findall(completion)
    if not stated:
        return None
    first = re.match(r"[(\[\s]*(\w+)", stated[-1])
    for option in options:
        if first and first.group(1).lower() == option.lower():
            return option
    return None
