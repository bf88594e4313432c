"""Build the tiny bases that ship with the cookbook: a processor with its tokenizer, and a model with random weights.

Why: the classes are those of Cosmos-Reason1 and Cosmos-Reason2, so that everything which reads the large models reads
these; only the sizes are small. `models/pretrain.py` trains them, and the tests take one as it is born.

    processor = build_processor(640, QWEN3_VL)
    model = build_model(processor.tokenizer, QWEN3_VL, width=192, layers=4, vision_width=128, vision_depth=3, seed=0)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from cookbook.data.architecture import Architecture
from cookbook.data.vision import stamps
from data_tools.worlds import road as road_world
from data_tools.worlds import road_questions

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # as where this folder's script is typed

import shapes_world  # noqa: E402

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def pixels(family: Architecture) -> int:
    """Returns height and width that the model sees: 2 x 2 merged patches, so 4 tokens for two frames."""
    return 2 * family.unit


def phrases() -> list[str]:
    """Returns the texts of the reading task: general ones, and the domain's words without anything they name."""
    road = [*road_world.CAUSES.values(), *road_world.MANEUVERS.values(), "a collision", "an accident", "the vehicle",
            "the signal is red", "the signal is green", "the signal turns red", "the signal turns green",
            "the primary cause", "the driver", "traffic rules"]  # fmt: skip
    basic = [
        *shapes_world.PATHS.values(),
        *shapes_world.RELATIONS.values(),
        *shapes_world.LAMPS,
        *shapes_world.DIRECTIONS,
    ]
    return sorted({*road, *basic, "they touch", "they stay apart", "one", "two", "three", "four"})


def corpus(family: Architecture) -> list[str]:
    """Returns texts of both worlds, for the tokenizer: a base model's tokenizer knows more words than its skills."""
    rng = np.random.default_rng(0)
    out = [*shapes_world.THINK_PROMPTS, *shapes_world.DIRECT_PROMPTS, shapes_world.DESCRIBE_PROMPT, *phrases()]
    out += [(HERE.parent / "configs/prompts/road.yaml").read_text()]
    for _ in range(3000):
        q = shapes_world.make_question(shapes_world.plan_scene(rng), phrases(), rng)
        out.append(q["question"] + "\n" + q["target"])
    for clip, _ in road_world.plan_split("train", 500, seed=123):
        out.append(clip.label["caption"])
        out += [f"{q.text}\n<think>{q.reasoning}</think>" for q in road_questions.questions(clip.label)]
    if family.stamped:
        out += stamps(range(64), 2.0) * 100
    return out


def build_processor(vocabulary: int, family: Architecture):
    """Returns a processor with a byte-level BPE tokenizer in Qwen2's manner, trained on the corpus."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - len(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(corpus(family), trainer)
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        model_max_length=4096,
    )
    return processor_of(tokenizer, family)


def processor_of(tokenizer, family: Architecture):
    """Returns the family's processor around a tokenizer."""
    template, least, most = (HERE / "chat_template.jinja").read_text(), family.unit**2, pixels(family) ** 2
    limits = {"min_pixels": least, "max_pixels": most}
    if family.stamped:  # its template has no system prompt of its own, its limits count all frames of a clip
        template = template.partition("{%- endif -%}\n")[2]
        look = {"patch_size": family.patch, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        clips = Qwen3VLVideoProcessor(size={"shortest_edge": least, "longest_edge": 768 * most})
        images = Qwen2VLImageProcessor(**limits, **look)
        return Qwen3VLProcessor(images, tokenizer, clips, chat_template=template)
    clips = Qwen2VLVideoProcessor(**limits, size={"shortest_edge": least, "longest_edge": most})
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tokenizer,
        video_processor=clips,
        chat_template=template,
    )


def build_model(
    tokenizer, family: Architecture, width: int, layers: int, vision_width: int, vision_depth: int, seed: int
):
    """Returns a small model of the family with random weights."""
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    heads = width // 32
    # halves of a head of 32, for time, height and width; Qwen3-VL has them in turn, not in three blocks
    rope = {"type": "mrope", "mrope_section": [4, 6, 6]}
    text, vision = {}, {"window_size": 112, "fullatt_block_indexes": [vision_depth - 1], "tokens_per_second": 2}
    made, model_class = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    if family.deepstack:
        rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        text, made, model_class = {"head_dim": 32}, Qwen3VLConfig, Qwen3VLForConditionalGeneration
        vision = {"deepstack_visual_indexes": [*range(vision_depth - 1)], "num_position_embeddings": 64}
    config = made(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": width * 8 // 3 // 8 * 8,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_scaling": rope,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            **text,
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_width,
            "num_heads": 4,
            "intermediate_size": 2 * vision_width,
            "out_hidden_size": width,
            "patch_size": family.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    model = model_class(config)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
