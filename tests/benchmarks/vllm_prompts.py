"""A sample about clips as vLLM takes it: the contract's own frames, so that none is chosen or resized again."""

from pathlib import Path
from typing import Any

from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample


def prompt(encoder: Encoder, sample: Sample) -> dict[str, Any]:
    """Returns vLLM's TokensPrompt: one placeholder a clip, which its processor fills with as many tokens."""
    chat = encoder.contract.conversation(sample.prompt)
    text = encoder.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    clips, fill = [], {"do_resize": False}
    for _, path in sample.media():
        frames, fps, places, rate = encoder.frames(Path(path))
        told = {"fps": fps, "frames_indices": [*range(len(frames))], "total_num_frames": len(frames)}
        if encoder.family.stamped:  # it writes the times of the frames into the text
            told = {"fps": rate, "frames_indices": [*places], "total_num_frames": places[-1] + 1}
        told |= {"duration": len(frames) / fps, "video_backend": "cookbook", "do_sample_frames": False}
        clips.append((frames.permute(0, 2, 3, 1).numpy(), told))
        fill["fps"] = fps
    ids = encoder.tokenizer(text)["input_ids"]
    return {"prompt_token_ids": ids, "multi_modal_data": {"video": clips}, "mm_processor_kwargs": fill}
