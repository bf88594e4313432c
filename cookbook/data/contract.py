"""The contract: what the model is told, how it must answer, and what it sees of a clip.

Why: half of all bad results come from a prompt, a frame rate or an answer parser that differs between training and
evaluation. Here the three stand in one small file (`configs/prompts/*.yaml`) with one hash, and every step reads it.

    contract = Contract.load("configs/prompts/road.yaml")
    contract.conversation(sample.prompt)    # with its system prompt, and its limits on every clip
    contract.read(completion, sample)
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from cookbook.data.answers import FORMATS, Texts, option_texts, read_answer
from cookbook.data.architecture import KNOWN, USUAL, Architecture
from cookbook.data.samples import CONTROL, Message, Sample, message, text
from cookbook.data.vision import TOTAL_PIXELS

LARGEST = 2**30  # pixels, tokens: no contract means more


class ContractError(ValueError):
    """Two steps that should share a contract do not; the message says what differs."""


@dataclass(frozen=True)
class Vision:
    """What the model sees of a clip: frames a second, frames at most, and the range of pixels (height × width)."""

    fps: float
    min_pixels: int
    max_pixels: int
    max_frames: int = 768  # the limit of qwen-vl-utils
    total_pixels: int = TOTAL_PIXELS  # of all frames together, that limit too

    def stated(self) -> dict[str, float]:
        """Returns the limits as a conversation, a file and the hash have them: the last one only where it is set."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("total_pixels", TOTAL_PIXELS)}


@dataclass(frozen=True)
class Contract:
    """System prompt, answer format and vision limits; immutable, with a hash."""

    system: str
    answer_format: str
    vision: Vision
    max_new_tokens: int = 1024  # that an answer may take in evaluation and inference; no part of the hash

    @classmethod
    def load(cls, path: str | Path) -> "Contract":
        """Read a contract file.

        Raises ContractError for a file that is no table of keys, a number that is none or has no meaning, and no size
        between the pixel limits, ValueError for other keys, and a prompt that shows another form than is rewarded.
        """
        data, vision = _tables(Path(path))
        for found, wanted, free in (
            (data, {"system", "answer_format"}, {"max_new_tokens"}),
            (vision, {"fps", "min_pixels", "max_pixels"}, {"max_frames", "total_pixels"}),
        ):
            if set(found) - free != wanted:
                raise ValueError(f"{path}: expected the keys {sorted(wanted)}, found {sorted(map(str, found))}")
        for key, value in (vision | {"max_new_tokens": data.get("max_new_tokens", 1)}).items():
            whole, least = key != "fps", 2 * (key == "max_frames")
            kinds = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not max(least, 0.01) <= value <= LARGEST:
                wanted = f"a {'whole ' * whole}number from {least or ('0.01', 1)[whole]} to {LARGEST:,}"
                raise ContractError(f"{path}: {key} is {value!r}; it takes {wanted}")
        if not isinstance(data["system"], str):
            raise ContractError(f'{path}: system is {data["system"]!r}; it takes a text, and none is ""')
        if not isinstance(data["answer_format"], str) or data["answer_format"] not in FORMATS:
            raise ValueError(f"{path}: answer_format is {data['answer_format']!r}; known are {', '.join(FORMATS)}")
        if (least := vision["min_pixels"]) > (most := vision["max_pixels"]):
            raise ContractError(f"{path}: video.min_pixels is {least}, above max_pixels, {most}; lower it")
        if token := CONTROL.search(str(data["system"])):
            raise ContractError(f"{path}: system holds the control token {token[0]}; write it in other words")
        found = cls(**data, vision=Vision(**vision))
        shown, form = re.search(r"<\w+>.*</\w+>", found.system, re.DOTALL), found.answer_format
        if shown and not found.is_well_formed(shown[0]):
            raise ValueError(f"{path}: the prompt shows {shown[0]!r}, which {form} does not accept as an answer")
        return found

    def save(self, path: str | Path) -> None:
        """Write the contract as `load` reads it; every checkpoint carries its own."""
        data = {key: value for key, value in asdict(self).items() if key != "vision"} | {"video": self.vision.stated()}
        Path(path).write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), encoding="utf-8")

    def for_base(self, family: Architecture) -> "Contract":
        """Returns the contract with as many vision tokens for a base of this family: pixels in its merged patches."""
        areas = [family.unit**2, *(known.unit**2 for known in KNOWN.values())]  # `min_pixels` is whole in one of them
        own = next((area for area in areas if self.vision.min_pixels % area == 0), areas[0])
        pixels = {key: round(n * areas[0] / own) for key, n in self.vision.stated().items() if "pixels" in key}
        return replace(self, vision=replace(self.vision, **pixels))

    def require(self, other: "Contract", owner: str) -> None:
        """Raises ContractError where another contract, that of `owner`, is not this one, be it for another base."""
        if self.for_base(USUAL).hash == other.for_base(USUAL).hash:
            return
        ours, theirs = ({**asdict(c), **asdict(c.vision)} for c in (self, other))
        changed = [key for key in ours if key not in ("vision", "max_new_tokens") and ours[key] != theirs[key]]
        differs = "; ".join(f"{key}: {theirs[key]!r} there, {ours[key]!r} here" for key in changed)
        hashes = f"{other.hash}, and {self.hash} is asked for here"
        raise ContractError(f"{owner} was made under contract {hashes}: {differs}")

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any word or limit of what is asked, shown and read."""
        binding = asdict(self) | {"vision": self.vision.stated()}
        del binding["max_new_tokens"]
        return hashlib.sha256(json.dumps(binding, sort_keys=True).encode()).hexdigest()[:12]

    def conversation(self, messages: Sequence[Message]) -> list[dict]:
        """Returns chat messages as cosmos-rl loaders yield them: the system prompt first, limits on every clip.

        What the contract says holds: a system turn of the messages gives way to the contract's, where it has one, and
        so do all limits that stand on a clip. Raises ContractError for a part of a clip.
        """
        limits = self.vision.stated()
        own = {"video": limits, "image": {key: limits[key] for key in ("min_pixels", "max_pixels")}}

        def bound(part: Message) -> dict:
            kind = part["type"]
            if part.keys() & {"video_start", "video_end"}:
                raise ContractError(f"{part[kind]}: only whole clips are read; cut it, and leave out video_start/_end")
            return {"type": kind, kind: part[kind], **own.get(kind, {})}

        kept = [turn for turn in messages if not (self.system and turn["role"] == "system")]
        turns = [message(turn["role"], *map(bound, turn["content"])) for turn in kept]
        return [message("system", text(self.system)), *turns] if self.system else turns

    def write_answer(self, reasoning: str, answer: str) -> str:
        """Returns the canonical completion: what a target looks like in this contract's answer format."""
        return FORMATS[self.answer_format].write(reasoning, answer)

    def is_well_formed(self, completion: str) -> bool:
        return FORMATS[self.answer_format].well_formed(completion)

    def read_answer(
        self, completion: str, options: Sequence[str] = (), texts: Texts | None = None, lenient: bool = False
    ) -> str | None:
        """Returns the option that a completion states, or None; without options, the words of the stated answer.

        `texts` are the options' words, so that "rain" counts as "A". With `lenient`, an answer may stand outside its
        place in the format: for a second number beside the strict one, never for a reward.
        """
        return read_answer(self.answer_format, completion, options, texts, lenient)

    def read(self, completion: str, sample: Sample) -> str | None:
        """Returns the option of the sample that a completion states, by letter or words: for rewards and evaluation."""
        return self.read_answer(completion, sample.options, option_texts(sample.question, sample.options))


class _Once(yaml.SafeLoader):
    """YAML in which no key stands twice: of two, yaml.safe_load takes the last in silence."""

    def construct_mapping(self, node, deep=False):
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which says what it is
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"{twice} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _tables(path: Path) -> tuple[dict, dict]:
    """Returns the keys of a contract file without `video`, and those of `video`. Raises ContractError."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8-sig"), _Once)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no UTF-8, no such date, a number without an end
        raise ContractError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict) or not isinstance(vision := data.pop("video", {}), dict):
        raise ContractError(f"{path}: is no table with the keys system, answer_format and video; see configs/prompts/")
    return data, vision
