"""What vLLM makes of a sample is what the policy sees: the same tokens, pixels and grids. Needs `pip install vllm`."""

import pytest
import torch
from benchmarks.vllm_prompts import prompt
from small_recipes import BASES
from transformers import AutoConfig

from cookbook.checkpoint.filled import load_processor
from cookbook.data.encoder import Encoder
from cookbook.runs import ROOT


def encoder_of(base, contract):
    place = ROOT / base
    return Encoder(load_processor(place), contract, AutoConfig.from_pretrained(place, trust_remote_code=False))


def require_the_same(base, encoder, sample, given):
    """Fails where vLLM's own processor makes other tokens, grids or pixels of what it is given than the encoder."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.processing.context import TimingContext
    from vllm.multimodal.processing.inputs import ProcessorInputs

    place, words = str(ROOT / base), given.get("prompt_token_ids") or given["prompt"]
    processor = MULTIMODAL_REGISTRY.create_processor(ModelConfig(model=place, tokenizer=place, dtype="float32"))
    media = processor.info.parse_mm_data(given.get("multi_modal_data", {}))
    asked = ProcessorInputs(words, media, hf_processor_mm_kwargs=given.get("mm_processor_kwargs", {}))
    made, tokens = processor.apply(asked, TimingContext(enabled=False)), encoder.tokens(sample, generate=True)
    assert made["prompt_token_ids"] == tokens.ids
    for (kind, path), theirs in zip(tokens.media, made["mm_kwargs"].get("video", []), strict=True):
        ours = encoder.media(kind, path)
        assert tuple(theirs["video_grid_thw"].data.tolist()) == ours.grid
        assert torch.equal(theirs["pixel_values_videos"].data, ours.patches)
        assert encoder.family.stamped or float(theirs["second_per_grid_ts"].data) == pytest.approx(
            ours.seconds_per_step
        )


@pytest.mark.parametrize("base", BASES)
def test_the_contracts_frames(base, samples, contract):
    pytest.importorskip("vllm")
    encoder = encoder_of(base, contract)
    for sample in samples[::5]:
        require_the_same(base, encoder, sample, prompt(encoder, sample))


def test_what_the_engine_hands_it(packer, questions, prompts, uneven):
    """One clip, two, or none, at a rate that divides nothing evenly."""
    pytest.importorskip("vllm")
    encoder = encoder_of(BASES[0], uneven)
    for sample, conversation in zip(questions, prompts, strict=True):
        require_the_same(BASES[0], encoder, sample, packer.get_rollout_input(conversation))
