"""What vLLM makes of a sample is what the policy sees: the same tokens, pixels and grids. Needs `pip install vllm`."""

import pytest
import torch
from benchmarks.vllm_prompts import prompt
from small_recipes import BASES
from transformers import AutoConfig

from cookbook.checkpoint.filled import load_processor
from cookbook.data.encoder import Encoder
from cookbook.runs import ROOT


@pytest.mark.parametrize("base", BASES)
def test_its_processor_gives_the_tokens_and_pixels_of_the_encoder(base, samples, contract):
    pytest.importorskip("vllm")
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.processing.context import TimingContext
    from vllm.multimodal.processing.inputs import ProcessorInputs

    place = str(ROOT / base)
    encoder = Encoder(load_processor(ROOT / base), contract, AutoConfig.from_pretrained(place, trust_remote_code=False))
    processor = MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=place, tokenizer=place, dtype="float32"))
    for sample in samples[::5]:
        given = prompt(encoder, sample)
        media = processor.info.parse_mm_data(given["multi_modal_data"])
        asked = ProcessorInputs(given["prompt_token_ids"], media, hf_processor_mm_kwargs=given["mm_processor_kwargs"])
        made = processor.apply(asked, TimingContext(enabled=False))
        tokens = encoder.tokens(sample, generate=True)
        assert made["prompt_token_ids"] == tokens.ids
        for (kind, path), theirs in zip(tokens.media, made["mm_kwargs"]["video"], strict=True):
            ours = encoder.media(kind, path)
            assert tuple(theirs["video_grid_thw"].data.tolist()) == ours.grid
            assert torch.equal(theirs["pixel_values_videos"].data, ours.patches)
            assert encoder.family.stamped or theirs["second_per_grid_ts"].data == ours.seconds_per_step
