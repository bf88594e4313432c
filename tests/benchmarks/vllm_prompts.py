"""A sample as vLLM takes it in the same process: the contract's own frames, so that none is chosen or resized again."""

from pathlib import Path
from typing import Any

from PIL import Image

from cookbook.data.encoder import Encoder
from cookbook.data.samples import Sample
from cookbook.data.vision import resized


def prompt(encoder: Encoder, sample: Sample) -> dict[str, Any]:
    """Returns vLLM's TokensPrompt: one placeholder a clip or image, which its processor fills with as many tokens."""
    vision, family = encoder.contract.vision, encoder.family
    text = encoder.processor.apply_chat_template(
        encoder.contract.conversation(sample.prompt), tokenize=False, add_generation_prompt=True
    )
    shown, fill = {"video": [], "image": []}, {"do_resize": False}
    for kind, path in sample.media():
        if kind == "image":
            image = Image.open(path).convert("RGB")
            height, width = resized(image.height, image.width, vision.min_pixels, vision.max_pixels, family.unit)
            shown[kind].append(image.resize((width, height)))
            continue
        frames, fps, places, rate = encoder.frames(Path(path))
        told = {"fps": fps, "frames_indices": [*range(len(frames))], "total_num_frames": len(frames)}
        if family.stamped:  # it writes the times of the frames into the text
            told = {"fps": rate, "frames_indices": [*places], "total_num_frames": places[-1] + 1}
        told |= {"duration": len(frames) / fps, "video_backend": "cookbook", "do_sample_frames": False}
        shown[kind].append((frames.permute(0, 2, 3, 1).numpy(), told))
        fill["fps"] = fps
    media = {kind: found for kind, found in shown.items() if found}
    ids = encoder.tokenizer(text)["input_ids"]
    return {"prompt_token_ids": ids, "multi_modal_data": media, "mm_processor_kwargs": fill}
