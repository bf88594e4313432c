"""The encoder: from conversations to the tensors that the model takes.

Why: reading a clip and cutting it into patches costs more than the tiny model itself, and a question is asked of the
same clip many times. So what was read or tokenized last is kept (`CLIP_BYTES`), and batches only stack what is there.
Token for token and label for label this is what cosmos-rl's packers make; tests compare them. What differs between
families of models is asked of `data.architecture`.

    encoder = Encoder(processor, contract, model.config)
    batch = encoder.training_batch(samples)     # labels are -100 outside the assistant's turns
    batch = encoder.prompt_batch(samples)       # left-padded, for generation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import ProcessorMixin

from cookbook.data.architecture import of_config
from cookbook.data.contract import Contract
from cookbook.data.picture import open_image
from cookbook.data.samples import Message, Sample, control_tokens, require_plain
from cookbook.data.video import Recent, VideoError, read_clip
from cookbook.data.vision import TEMPORAL_PATCH, clip_size, resized, spell, stamps

IGNORE = -100  # the label that the cross-entropy leaves out
CLIP_BYTES, TOKEN_BYTES = 4 * 2**30, 2**30  # kept in memory: patches of clips, and tokenized samples


@dataclass(frozen=True)
class Media:
    """A clip or image as the vision tower takes it: patches (t·h·w, values), grid (t, h, w), seconds per step."""

    kind: str  # "video" or "image"
    patches: torch.Tensor
    grid: tuple[int, int, int]
    seconds_per_step: float
    times: tuple[str, ...] = ()  # what stands before each step in the text, where the family writes that

    @property
    def nbytes(self) -> int:
        return self.patches.nbytes


@dataclass(frozen=True)
class Tokens:
    """A conversation as the language model takes it: token ids, and labels that are IGNORE where nothing is learned."""

    ids: list[int]
    labels: list[int]
    positions: torch.Tensor  # (3, length)
    media: tuple[tuple[str, Path], ...]  # (kind, file), as they come in the text

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about: each id and label is a pointer to a number."""
        return self.positions.nbytes + 16 * len(self.ids)


class Encoder:
    """Turns samples into batches by the model's own processor; remembers the clips and samples that it saw last."""

    def __init__(self, processor: ProcessorMixin, contract: Contract, model_config) -> None:
        """`model_config` is the model's config: its token ids and vision settings decide the positions."""
        self.processor, self.config, self.family = processor, model_config, of_config(model_config)
        self.contract = contract.for_base(self.family)
        self.tokenizer = processor.tokenizer
        self.control = control_tokens(self.tokenizer)
        self._clips, self._samples = Recent(CLIP_BYTES), Recent(TOKEN_BYTES)

    def media(self, kind: str, path: Path) -> Media:
        """Returns a clip or image as the vision tower takes it. Raises VideoError where it cannot be read."""
        return self._clips.get((kind, path), lambda: self._media(kind, path))

    def _media(self, kind: str, path: Path) -> Media:
        vision, process = self.contract.vision, {"do_resize": False, "return_tensors": "pt"}
        if kind == "image":
            try:
                image = open_image(path)
            except ValueError as error:
                raise VideoError(f"{path}: cannot be read as an image ({error})") from None
            h, w = resized(image.height, image.width, vision.min_pixels, vision.max_pixels, self.family.unit)
            out = self.processor.image_processor(images=[image.resize((w, h))], **process)
            return Media(kind, out["pixel_values"], tuple(out["image_grid_thw"][0].tolist()), 0.0)
        frames, fps, *clip = self.frames(path)
        out = self.processor.video_processor(videos=[frames.float()], do_sample_frames=False, **process)
        grid = tuple(out["video_grid_thw"][0].tolist())
        times = stamps(*clip) if self.family.stamped else ()
        return Media(kind, out["pixel_values_videos"], grid, TEMPORAL_PATCH / fps, times)

    def frames(self, path: Path) -> tuple[torch.Tensor, float, list[int], float]:
        """Returns a clip's frames as the model sees them (frames, 3, height, width; uint8), and their rate.

        After these, as `read_clip` does: which frames of the clip they are, and the clip's own rate.
        """
        vision = self.contract.vision
        frames, *rest = read_clip(path, vision.fps, vision.max_frames)
        limits = vision.min_pixels, vision.max_pixels, vision.stated().get("total_pixels")
        size = clip_size(*frames.shape[-2:], len(frames), *limits, self.family)
        return resize(frames, list(size), InterpolationMode.BICUBIC, antialias=True), *rest

    def _tokens(self, messages: Sequence[Message], generate: bool) -> Tokens:
        """Tokenize a conversation. With `generate`, it ends where the assistant begins to speak."""
        chat = self.contract.conversation(messages)
        shown = [(part["type"], part) for turn in chat for part in turn["content"] if part["type"] != "text"]
        files = tuple((kind, Path(part[kind])) for kind, part in shown)
        media = [self.media(*file) for file in files]
        # the assistant's words are tokenized on their own: what they become must not depend on what stands before
        mark = self.tokenizer.pad_token
        said = ["".join(part["text"] for part in turn["content"]) for turn in chat if turn["role"] == "assistant"]
        chat = [turn | {"content": mark} if turn["role"] == "assistant" else turn for turn in chat]
        frame = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate)
        parts = self._with_vision(frame, media).split(mark)
        assert len(parts) == len(said) + 1, "a control token that `require_plain` has let through"
        ids, labels, end = [], [], self.tokenizer.eos_token_id
        for i, part in enumerate(parts):
            words = self.tokenizer(part)["input_ids"]
            ids += words
            # the token that ends the assistant's turn is learned too
            labels += [end if i and j == 0 and token == end else IGNORE for j, token in enumerate(words)]
            if i < len(said):
                words = self.tokenizer(said[i])["input_ids"]
                ids, labels = ids + words, labels + words
        return Tokens(ids, labels, self._positions(ids, media), files)

    def _with_vision(self, frame: str, media: Sequence[Media]) -> str:
        merge = self.processor.video_processor.merge_size
        for kind, pad in (("video", self.processor.video_token), ("image", self.processor.image_token)):
            found = [(m.grid[0] * m.grid[1] * m.grid[2] // merge**2, m.times) for m in media if m.kind == kind]
            if (places := frame.count(pad)) != len(found):
                raise ValueError(f"{places} placeholders of kind {kind} in the text for {len(found)} files")
            frame = spell(frame, pad, found)
        return frame

    def tokens(self, sample: Sample, generate: bool = False) -> Tokens:
        """Returns the sample's tokens: the whole conversation, or with `generate` its prompt.

        Raises DataError where its words hold a special token of the tokenizer.
        """
        require_plain([sample], self.control)
        key, said = (id(sample), generate), sample.prompt if generate else sample.messages
        # the sample is kept with its tokens, so that its id stays its own
        return self._samples.get(key, lambda: (sample, self._tokens(said, generate)))[1]

    def length(self, sample: Sample) -> int:
        """Returns how many tokens the whole conversation has, those of its clips included."""
        return len(self.tokens(sample).ids)

    def _positions(self, ids: list[int], media: Sequence[Media]) -> torch.Tensor:
        """Returns the rotary positions (time, height, width; 3, length) of one conversation.

        Text counts up in all three; a clip spreads over its own grid, and the text behind it goes on after the largest.
        Time is in `tokens_per_second`. As in cosmos-rl and Qwen's own code, seconds are not rounded before they are
        multiplied; transformers 4.57.6 does that, and so puts all frames of a clip at 4 fps to one time. Where times
        stand in the text, each step is a grid of its own.
        """
        rate = 0 if self.family.stamped else self.config.vision_config.tokens_per_second
        merge = self.config.vision_config.spatial_merge_size
        pad = {"video": self.config.video_token_id, "image": self.config.image_token_id}
        grids = [(m, t) for m in media for t in ([1] * m.grid[0] if m.times else m.grid[:1])]
        out, at, place = [], 0, 0
        for m, t in grids:
            start, (h, w) = ids.index(pad[m.kind], at), (m.grid[1] // merge, m.grid[2] // merge)
            words = torch.arange(start - at).expand(3, -1) + place
            times = (torch.arange(t) * m.seconds_per_step * rate).long()
            grid = torch.stack(torch.meshgrid(times, torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
            grid += place + start - at
            out += [words, grid]
            at, place = start + t * h * w, int(grid.max()) + 1
        return torch.cat([*out, torch.arange(len(ids) - at).expand(3, -1) + place], dim=1)

    def _batch(self, rows: Sequence[Tokens], side: str) -> dict[str, torch.Tensor]:
        def padded(values: Sequence, value: int) -> torch.Tensor:
            return pad_sequence([torch.as_tensor(v) for v in values], True, value, side)

        batch = {
            "input_ids": padded([row.ids for row in rows], self.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            "position_ids": padded([row.positions.T for row in rows], 1).permute(2, 0, 1).contiguous(),
            "labels": padded([row.labels for row in rows], IGNORE),
        }
        media = [self.media(*file) for row in rows for file in row.media]
        for kind, values, grid in (
            ("video", "pixel_values_videos", "video_grid_thw"),
            ("image", "pixel_values", "image_grid_thw"),
        ):
            if found := [m for m in media if m.kind == kind]:
                batch[values] = torch.cat([m.patches for m in found])
                batch[grid] = torch.tensor([m.grid for m in found])
        return batch

    def prompt_batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Returns the prompts, padded on the left so that generation goes on from the last column."""
        batch = self._batch([self.tokens(sample, generate=True) for sample in samples], "left")
        del batch["labels"]
        return batch

    def training_batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Returns whole conversations, padded on the right, and labels for the assistant's tokens only."""
        return self._batch([self.tokens(sample) for sample in samples], "right")
