"""Count the tokens of a sample exactly, without decoding a frame: the words by the tokenizer, the clips by their facts.

Why: cosmos-rl's packer cuts what is longer than `model_max_length` from the right, where the answer stands, and says
nothing. The number of vision tokens follows from a clip's size, frames and rate, which the passport knows already.

    count = token_counter("models/tiny-base")
    passport(samples, max_length=4096, count_tokens=count)

The numbers are those of qwen-vl-utils followed by the model's processor, as long as the pixel limits of the samples lie
within the processor's own (for Cosmos-Reason1 3,136 to 12,845,056 pixels), which then resizes nothing again.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cookbook.data.architecture import USUAL, Architecture, architecture
from cookbook.data.contract import Contract
from cookbook.data.samples import MEDIA, DataError, Sample, control_tokens, require_plain
from cookbook.data.vision import FPS, clip_tokens, frames_seen, image_tokens, spell, stamps
from cookbook.runs import ROOT
from data_tools.passport.checks import Count
from data_tools.passport.clips import ClipFacts

VIDEO = "<|video_pad|>"  # stands for a clip in the text


def part_tokens(part: Mapping[str, Any], facts: ClipFacts, family: Architecture = USUAL) -> int:
    """Returns the vision tokens of one part of a message, with the limits (fps, min_pixels, …) that it states.

    Raises DataError for limits that qwen-vl-utils refuses, or that are not supported here.
    """
    if unknown := {"nframes", "video_start", "video_end", "min_frames", "resized_height", "resized_width"} & set(part):
        raise DataError(f"{', '.join(sorted(unknown))}: tokens are counted for fps and pixel limits only")
    usual = family.image_pixels if part["type"] == "image" else family.video_pixels
    least, most = part.get("min_pixels", usual[0]), part.get("max_pixels", usual[1])
    if most < least:
        raise DataError(f"max_pixels {most} is below min_pixels {least}; qwen-vl-utils needs both stated")
    if part["type"] == "image":
        return image_tokens(*facts.shown_size, most, least, family)
    rest = {key: part[key] for key in ("total_pixels", "max_frames") if key in part}
    shape = (*facts.shown_size, most, least)
    return clip_tokens(_seconds(facts), part.get("fps", FPS), *shape, frames=facts.frames, **rest, family=family)


def _seconds(facts: ClipFacts) -> float:
    return facts.seconds if facts.variable_rate or not facts.fps else facts.frames / facts.fps


def _times(part: Mapping[str, Any], facts: ClipFacts) -> tuple[str, ...]:
    from cookbook.data.video import Timing

    most = {"most": part["max_frames"]} if "max_frames" in part else {}
    seen = frames_seen(_seconds(facts), part.get("fps", FPS), facts.frames, **most)
    rate = facts.frames / _seconds(facts)
    return stamps(Timing(facts.frames, rate).even(seen), rate)


def rough_lengths(
    splits: Mapping[str, Sequence[Sample]], clips: Sequence[ClipFacts], family: Architecture, contract: Contract
) -> list[tuple[int, int]]:
    """Returns (prompt, answer) tokens of each sample with usable clips, as `rough_counter` has them."""
    facts, count = {clip.path: clip for clip in clips if clip.usable}, rough_counter(family, contract)
    shown = [(sample, [facts.get(path) for _, path in sample.media()]) for rows in splits.values() for sample in rows]
    return [count(sample, seen) for sample, seen in shown if all(seen)]


def rough_counter(family: Architecture, contract: Contract) -> Count:
    """Returns what `token_counter` does where no tokenizer is there: vision as it is, and rather too many for words."""
    bound = contract.for_base(family)

    def words(told: str) -> int:  # a token holds four letters or so, but one digit or mark
        return len(re.findall(r"[A-Za-z]{1,3}|\S|\n", told))

    def count(sample: Sample, facts: Sequence[ClipFacts]) -> tuple[int, int]:
        turns = bound.conversation(sample.prompt)
        parts = [part for turn in turns for part in turn["content"]]
        seen = [*zip((part for part in parts if part["type"] in MEDIA), facts)]
        steps = [step for part, found in seen if part["type"] == "video" for step in _times(part, found)]
        told = [part["text"] for part in parts if part["type"] == "text"] + steps * family.stamped
        edges = 32 + 8 * len(turns) + 2 * (len(seen) + len(steps) * family.stamped)  # of turns, clips and steps
        shown = sum(part_tokens(part, found, family) for part, found in seen)
        return shown + edges + sum(map(words, told)), words(sample.target or "") + 2

    return count


def token_counter(model: str | Path, contract: Contract | None = None) -> Count:
    """Returns a function (sample, facts) -> (prompt, answer) tokens, by the tokenizer and chat template of a model.

    With `contract`, its system prompt and its limits are added first, as training does. The prompt goes up to where the
    assistant's last turn begins; the answer ends with the end-of-turn token (the line break behind it has no label).
    Raises CheckpointError for a tokenizer that does not load.
    """
    from transformers import AutoTokenizer  # takes seconds to load

    from cookbook.checkpoint.filled import explained

    place = ROOT / model if (ROOT / model).exists() else Path(model)  # else a name of the hub
    with explained(place, "its tokenizer does not load; name a model that is there, or copy its tokenizer files again"):
        tokenizer, family = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False), architecture(place)
    control, bound = control_tokens(tokenizer), contract and contract.for_base(family)

    def count(sample: Sample, facts: Sequence[ClipFacts]) -> tuple[int, int]:
        require_plain([sample], control)
        prompt, target, messages = sample.prompt, sample.target, sample.messages
        if bound:
            messages, prompt = bound.conversation(messages), bound.conversation(prompt)
        parts = [part for turn in messages for part in turn["content"] if part["type"] in MEDIA]
        vision = sum(part_tokens(part, found, family) for part, found in zip(parts, facts))
        clips = [(part, found) for part, found in zip(parts, facts) if part["type"] == "video"]
        times = [_times(*clip) for clip in clips] if family.stamped else [()] * len(clips)
        pads = sum(map(len, times)) or len(clips)  # one for each start of vision in the text
        words = tokenizer.apply_chat_template(
            [dict(turn) for turn in prompt], tokenize=False, add_generation_prompt=True
        )
        words = spell(words, VIDEO, [(len(steps) or 1, steps) for steps in times])
        answer = [] if target is None else tokenizer(target + tokenizer.eos_token)["input_ids"]
        return len(tokenizer(words)["input_ids"]) + vision - pads - (len(parts) - len(clips)), len(answer)

    return count
