"""The published models that lint, plan and doctor know by name: family, parameters, shape.

Why: whether a training fits is asked before anybody downloads 17 GB. The shapes are those of the config.json of
Qwen2.5-VL-7B, Qwen3-VL-2B and -8B, which Cosmos-Reason1-7B, Cosmos-Reason2-2B and -8B have too; a test builds them
without memory and counts. A checkpoint on this disk is asked itself, and a job's SFT that is to come by its file.

    family_of("nvidia/Cosmos-Reason2-8B").unit
    MODELS["nvidia/Cosmos-Reason2-2B"].parameters
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from cookbook.config.document import Config
from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL, Architecture, architecture, config_of
from cookbook.runs import JOBS, ROOT

NOT_TAKEN = "Cosmos3"  # in a name: a checkpoint of reasoner and generator, whose layout is not converted here
SIZES = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads",
         "num_key_value_heads": "kv_heads"}  # in a config.json, and here  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a published model is made of."""

    family: Architecture
    parameters: float  # vision tower included
    width: int  # of the language model
    layers: int
    heads: int
    kv_heads: int  # of 128 numbers each
    blocks: int  # of the vision tower
    tied: bool = False  # the output shares its weights with the embeddings

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token in bfloat16."""
        return self.layers * 2 * self.kv_heads * 128 * 2


SEVEN = Shape(QWEN2_5_VL, 8.292e9, width=3584, layers=28, heads=28, kv_heads=4, blocks=32)
TWO = Shape(QWEN3_VL, 2.128e9, width=2048, layers=28, heads=16, kv_heads=8, blocks=24, tied=True)
EIGHT = Shape(QWEN3_VL, 8.767e9, width=4096, layers=36, heads=32, kv_heads=8, blocks=27)
MODELS = {
    "nvidia/Cosmos-Reason1-7B": SEVEN, "Qwen/Qwen2.5-VL-7B-Instruct": SEVEN,
    "nvidia/Cosmos-Reason2-2B": TWO, "Qwen/Qwen3-VL-2B-Instruct": TWO,
    "nvidia/Cosmos-Reason2-8B": EIGHT, "Qwen/Qwen3-VL-8B-Instruct": EIGHT,
}  # fmt: skip


def family_of(name: str) -> Architecture:
    """Returns a model's family by folder or published name, else Qwen2.5-VL's. ValueError for a broken config.json."""
    return MODELS[base].family if (base := base_of(name)) in MODELS else architecture(ROOT / base)


def base_of(name: str) -> str:
    """Returns what a job's SFT begins with, where that is named and has not left a model yet; else the name itself."""
    with suppress(ValueError, OSError):
        if (place := ROOT / name).name == "sft" and not config_of(place):
            return str(Config.read(JOBS / place.parent.name / "sft.toml")["policy.model_name_or_path"])
    return name


def shape_of(name: str) -> Shape | None:
    """Returns the published shape that a model has, by its name or by the config.json of its folder; else None."""
    if (base := base_of(name)) in MODELS:
        return MODELS[base]
    with suppress(ValueError, OSError, LookupError, TypeError, AttributeError):  # the lint says what cannot be read
        stated = config_of(ROOT / base)
        text = stated.get("text_config", stated)  # older files have the language model's at the top
        sizes = {SIZES[key]: text[key] for key in SIZES} | {"blocks": stated["vision_config"]["depth"]}
        near = (model for model in MODELS.values() if model.family.model_type == stated["model_type"])
        return next((model for model in near if sizes.items() <= vars(model).items()), None)
    return None


def published_names(model: Shape) -> Iterator[str]:
    """Yields the parameter names of a published model, as the engine has them."""
    yield from _native(model) if model.family.native else _as_transformers(model)


def _native(model: Shape) -> Iterator[str]:
    both = ("weight", "bias")
    mlp = [f"mlp.{part}_proj." for part in ("gate", "up", "down")]
    layer = ["input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"]
    layer += [part + "weight" for part in mlp]
    layer += [f"self_attn.{part}_proj.{kind}" for part, kind in product("qkv", both)]
    block = ["norm1.weight", "norm2.weight"]
    block += [part + kind for part, kind in product(["attn.qkv.", "attn.proj.", *mlp], both)]
    yield from (f"model.layers.{i}.{name}" for i, name in product(range(model.layers), layer))
    yield from (f"visual.blocks.{i}.{name}" for i, name in product(range(model.blocks), block))
    ends = ("model.embed_tokens", "model.norm", "model.lm_head", "visual.patch_embed.proj", "visual.merger.ln_q")
    yield from (f"{name}.weight" for name in ends)
    yield from (f"visual.merger.mlp.{i}.{kind}" for i, kind in product((0, 2), both))


def _as_transformers(model: Shape) -> Iterator[str]:
    layer = [f"self_attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    layer += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    layer += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    text = [f"layers.{i}.{name}" for i, name in product(range(model.layers), layer)]
    yield from (f"model.language_model.{name}" for name in [*text, "embed_tokens.weight", "norm.weight"])
    parts = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"]
    parts = [f"blocks.{i}.{part}" for i, part in product(range(model.blocks), parts)]
    mergers = ["merger", *(f"deepstack_merger_list.{i}" for i in range(3))]
    parts += [f"{merger}.{part}" for merger, part in product(mergers, ("norm", "linear_fc1", "linear_fc2"))]
    parts = [f"{part}.{kind}" for part, kind in product([*parts, "patch_embed.proj"], ("weight", "bias"))]
    yield from (f"model.visual.{name}" for name in [*parts, "pos_embed.weight"])
    yield from () if model.tied else ("lm_head.weight",)
