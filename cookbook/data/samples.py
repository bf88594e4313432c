"""Samples: one item of any dataset, in the chat format that cosmos-rl loaders yield.

Why: every published format (folders of clips and labels, LLaVA JSON, Hugging Face rows, question-answer pairs) says the
same in its own way: somebody shows media, asks, and gets an answer. A sample holds that, and remembers which clip it
belongs to and which label it carries, so that splitting and balancing can never lose track of either.

    sample.messages     # the conversation, media as absolute paths
    sample.prompt       # without the last assistant turn, for rollouts and evaluation
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MEDIA = ("video", "image")
# how FFmpeg may open a clip: "hls", "concat", "tty" and the like would read other files or draw text
CLIP_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,m4v,h264,hevc,ivf",
    "protocol_whitelist": "file",
}

# the tokens of Qwen2.5-VL that steer the model; a tokenizer may have others beside them
CONTROL = re.compile(
    r"<\|(?:im_start|im_end|endoftext|repo_name|file_sep|fim_(?:prefix|middle|suffix)"
    r"|(?:vision|image|video|fim)_pad|(?:vision|object_ref|box|quad)_(?:start|end))\|>"
)

Message = Mapping[str, Any]


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the file or sample, what was found, and what to do."""


@dataclass(frozen=True)
class Sample:
    """One conversation about one or more clips or images; immutable."""

    id: str  # unique in its dataset
    group: str  # the clip, or whatever must never stand in two splits
    messages: tuple[Message, ...]  # {"role", "content": [{"type": "video" | "image" | "text", …}, …]}
    answer: str | None = None  # the reference that rewards and evaluation compare with
    options: tuple[str, ...] = ()  # what may stand as the answer; empty where it is free text
    label: str | None = None  # what balancing counts
    task: str = ""  # the kind of question, for scores by task
    extra: Mapping[str, Any] = field(default_factory=dict)  # other fields of the source, kept for converting back

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages up to the last assistant turn."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages

    @property
    def target(self) -> str | None:
        """The text of the last assistant turn, None where there is none."""
        last = self.messages[-1]
        return "".join(part["text"] for part in last["content"]) if last["role"] == "assistant" else None

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        turns = [m for m in self.messages if m["role"] == "user"]
        return "".join(part["text"] for part in turns[-1]["content"] if part["type"] == "text") if turns else ""

    @property
    def video(self) -> Path | None:
        return next((path for kind, path in self.media() if kind == "video"), None)

    def media(self) -> Iterator[tuple[str, Path]]:
        """Yields (kind, path) of every clip and image, in the order of the conversation."""
        for turn in self.messages:
            for part in turn["content"]:
                if part["type"] in MEDIA:
                    yield part["type"], Path(part[part["type"]])

    def steers(self, tokens: re.Pattern = CONTROL) -> str:
        """Returns the first control token in what the sample asks, answers and offers to choose; "" for none."""
        turns = ["".join(part.get("text", "\n") for part in turn["content"]) for turn in self.messages]
        found = tokens.search("\n".join([*turns, self.answer or "", *self.options]))
        return found[0] if found else ""

    def with_media(self, paths: Mapping[Path, Path]) -> "Sample":
        def exchange(part: Mapping[str, Any]) -> dict[str, Any]:
            kind = part["type"]
            return dict(part) | ({kind: str(paths.get(Path(part[kind]), part[kind]))} if kind in MEDIA else {})

        return replace(self, messages=tuple(message(m["role"], *map(exchange, m["content"])) for m in self.messages))


def text(words: str) -> dict[str, str]:
    """Returns a text part of a message."""
    return {"type": "text", "text": words}


def video(path: str | Path) -> dict[str, str]:
    """Returns a clip as a part of a message; the contract adds its limits."""
    return {"type": "video", "video": str(path)}


def message(role: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one turn of a conversation."""
    return {"role": role, "content": list(parts)}


def require_targets(samples: Iterable[Sample]) -> None:
    """Raises DataError where a sample has no written answer: SFT has nothing to learn from it."""
    if bare := [sample.id for sample in samples if sample.target is None]:
        raise DataError(f"{len(bare)} samples, such as {bare[0]}, end without an answer; SFT has nothing to learn")


def control_tokens(tokenizer: Any) -> re.Pattern:
    """Returns a pattern of the tokens that a tokenizer of transformers calls special."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, special)))


def require_plain(samples: Iterable[Sample], tokens: re.Pattern = CONTROL) -> None:
    """Raises DataError where a sample's words hold a control token: it would end a turn or stand for a clip."""
    for sample in samples:
        if token := sample.steers(tokens):
            words = "it would steer the model; write it in other words, or let a passport leave the sample out"
            raise DataError(f"sample {sample.id}: its text holds the control token {token}: {words}")
