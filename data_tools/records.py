"""Records: one item of any dataset, in the chat format that cosmos-rl loaders yield.

Why: every published format (folders of clips and labels, LLaVA JSON, Hugging Face rows, question-answer pairs) says the
same in its own way: somebody shows media, asks, and gets an answer. A record holds that, and remembers which clip it
belongs to and which label it carries, so that splitting and balancing can never lose track of either.

    record.messages     # the conversation, media as absolute paths
    record.prompt()     # without the last assistant turn, for rollouts and evaluation
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEDIA = ("video", "image")


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the file or record, what was found, and what to do."""


@dataclass(frozen=True)
class Record:
    """One conversation about one or more clips or images; immutable."""

    id: str  # unique in its dataset
    group: str  # the clip, or whatever must never stand in two splits
    messages: tuple[Mapping[str, Any], ...]  # {"role", "content": [{"type": "video" | "image" | "text", …}, …]}
    answer: str | None = None  # the reference that rewards and evaluation compare with
    options: tuple[str, ...] = ()  # what may stand as the answer; empty where it is free text
    label: str | None = None  # what balancing counts
    extra: Mapping[str, Any] = field(default_factory=dict)  # other fields of the source, kept for converting back

    def media(self) -> Iterator[tuple[str, Path]]:
        """Yields (kind, path) of every clip and image, in the order of the conversation."""
        for message in self.messages:
            for part in message["content"]:
                if part["type"] in MEDIA:
                    yield part["type"], Path(part[part["type"]])

    def target(self) -> str | None:
        """Returns the text of the last assistant turn, None where there is none."""
        last = self.messages[-1]
        return "".join(part["text"] for part in last["content"]) if last["role"] == "assistant" else None

    def prompt(self) -> tuple[Mapping[str, Any], ...]:
        """Returns the messages up to the last assistant turn."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


def text(words: str) -> dict[str, str]:
    """Returns a text part of a message."""
    return {"type": "text", "text": words}


def message(role: str, *parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one turn of a conversation."""
    return {"role": role, "content": list(parts)}
