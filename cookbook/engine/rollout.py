"""The rollout backend "transformers": what generates the completions of GRPO where vLLM is not installed.

Why: cosmos-rl 0.4.7 has two backends for language, vLLM, which is not there with a plain pip install, and `example_hf`
(rollout/example_custom_rollout/example_custom_rollout.py), which reads text only. To import this registers it.

With `mode = "colocated"` the policy's own model generates; otherwise a copy on GPUs of its own does, a whole one on
each, whose weights the engine replaces after each step. Completions go back as text, and the trainer tokenizes them
again (grpo_trainer.py:1155): so the token that ends one is never trained, and a word that was sampled in unusual pieces
is trained in the usual ones. With `train.train_policy.rollout_as_token_ids = true` it gets the sampled tokens.
A rollout must see what the trainer sees, or the policy is graded on another clip than it answered to. So a prompt is
what the engine's own packer makes of it: token ids, pixels, and rotary positions, for transformers would compute others
(CONTRIBUTING.md); of Qwen3-VL it makes none, and the trainer's model and this one compute the same. All prompts of a
call go in one batch: with FSDP every process must make as many forward passes.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from cosmos_rl.rollout.rollout_base import RolloutBase, RolloutRegistry
from cosmos_rl.rollout.schema import RolloutResult
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from cookbook.data.architecture import of_config

BACKEND = "transformers"  # the configurations' rollout.backend
MEDIA_KEYS = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")


@RolloutRegistry.register(BACKEND, allow_override=True)
class TransformersRollout(RolloutBase):
    """Generates with transformers, all prompts of a call in one batch."""

    def post_init_hook(self, **_: Any) -> None:
        """Called by the engine first. Raises ValueError for what the configuration asks and this cannot do."""
        self.model = self._model_param_map = None
        rollout = self.config.rollout
        sizes, modes = rollout.parallelism, (rollout.mode, rollout.async_r2r_sync)
        wrong = {
            "rollout.parallelism.tp_size and pp_size must be 1": {sizes.tp_size, sizes.pp_size} != {1},
            'rollout.mode must be "sync", and async_r2r_sync "disabled"': modes != ("sync", "disabled"),
            "rollout.multi_turn_config.enable must be false": rollout.multi_turn_config.enable,
            'rollout.quantization must be "none"': rollout.quantization != "none",
            "collect_rollout_logprobs, use_decoupled_loss and use_rollout_logprobs_for_loss must be false":
                self.config.train.train_policy.collect_rollout_logprobs,
        }  # fmt: skip
        if found := "; ".join(key for key, is_so in wrong.items() if is_so):
            raise ValueError(f'rollout.backend = "{BACKEND}": {found}')

    def init_engine(self, quantization: str, seed: int | None, load_format: str, **_: Any) -> None:
        """Called by the engine before the first weights arrive. Loads the model; colocated, only its shapes."""
        path = self.config.policy.model_name_or_path
        self.model_config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        self.family = of_config(self.model_config)
        if self.config.mode == "colocated":
            with torch.device("meta"):
                self.model = AutoModelForImageTextToText.from_config(self.model_config)
        else:
            kind = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
            self.model = (
                AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=False, **kind)
                .to(self.device)
                .eval()
            )
        if seed is not None:
            torch.manual_seed(seed)  # processes have other prompts, and so other completions
        self._engine_initialized = True

    def get_underlying_model(self) -> nn.Module:
        """Returns the model whose weights the engine replaces, under published names, which its mapper expects.

        transformers 4.57 has `model.visual.*` and `model.language_model.*` for what files call `visual.*`, `model.*`;
        files of Qwen3-VL have transformers' names.
        """
        if not self.family.native:
            return self.model
        inner, head = self.model.model, self.model.lm_head
        return nn.ModuleDict({"visual": inner.visual, "model": inner.language_model, "lm_head": head})

    def set_underlying_model(self, model: nn.Module) -> None:
        """Called by the engine in colocated mode, after each step: take the policy's own model."""
        if model is self.model:  # each registration wraps the one before: after a thousand Python gives up
            return
        if not hasattr(model, "generate"):
            raise ValueError('mode = "colocated" needs train.force_use_hf = true: a native model has no generate')
        register_fsdp_forward_method(model, "generate")  # does nothing where the model is not sharded
        self.model = model

    def rollout_generation(
        self, payloads, stream, data_packer, data_fetcher, is_validation: bool = False, *_: Any, **__: Any
    ) -> list[RolloutResult]:
        """Called by the engine with a batch of prompts. Returns one RolloutResult for each."""
        tokenizer, settings = data_packer.tokenizer, sampling(self.config, is_validation)
        settings.eos_token_id, settings.pad_token_id = self._ends(tokenizer), tokenizer.pad_token_id
        settings.suppress_tokens = unsayable(self.model_config, len(tokenizer))
        prompts = [data_packer.get_policy_input(payload.prompt) for payload in payloads]
        rows = complete(self.model, prompts, settings, tokenizer.pad_token_id)
        each, wanted = len(rows) // len(payloads), self.config.validation if is_validation else self.config.rollout
        as_ids, results = self.config.train.train_policy.rollout_as_token_ids, []
        for i, payload in enumerate(payloads):
            # where the likeliest tokens are taken, one completion is all there is
            group = rows[i * each : (i + 1) * each] * (wanted.n_generation // each)
            texts = tokenizer.batch_decode(group, skip_special_tokens=True)
            # [token]: the engine has room for the likeliest tokens of each place
            ids = [[[token] for token in tokens] for tokens in group] if as_ids else None
            results.append(RolloutResult(prompt=payload.prompt, completions=texts, completion_token_ids=ids))
        return results

    def _ends(self, tokenizer) -> list[int]:
        """Returns the tokens that end a completion: those of the model's generation_config.json, where it has one."""
        ends = None
        with suppress(OSError):
            ends = GenerationConfig.from_pretrained(self.config.policy.model_name_or_path).eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        return ends if isinstance(ends, list) else [ends]


def sampling(config: Any, is_validation: bool) -> GenerationConfig:
    """Returns how the engine's configuration wants its completions: [rollout], or in a validation [validation].

    What [validation] leaves open is as in [rollout]. Temperature 0 takes the likeliest token: then all completions of a
    prompt are the same, so one is made.
    """
    keys, part = ("temperature", "top_p", "top_k", "repetition_penalty"), config.rollout
    values, length = {key: getattr(part.sampling_config, key) for key in keys}, part.max_response_length
    if is_validation:
        part = config.validation
        values |= {key: getattr(part, key) for key in keys if getattr(part, key) is not None}
        length = part.max_response_length or length
    settings = {"max_new_tokens": length, "repetition_penalty": values.pop("repetition_penalty")}
    if values["temperature"] > 0:
        values["top_k"] = max(values["top_k"], 0)  # the engine's -1, "all tokens", is transformers' 0
        settings |= {"do_sample": True, "num_return_sequences": part.n_generation, **values}
    return GenerationConfig(**settings)


def prompt_batch(prompts: Sequence[Mapping[str, Any]], pad: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """Returns prompts as the packer makes them for the trainer in one left-padded batch, and their rotary positions.

    Ids and mask are (prompts, length), positions (3, prompts, length), None where the packer makes none; clips and
    images follow one another.
    """
    ids, left = [torch.tensor(prompt["input_ids"]) for prompt in prompts], {"batch_first": True, "padding_side": "left"}
    batch = {"input_ids": pad_sequence(ids, padding_value=pad, **left)}
    batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], **left)
    for name in MEDIA_KEYS:
        if found := [prompt[name] for prompt in prompts if prompt[name] is not None]:
            batch[name] = torch.cat(found)
    if "position_ids" not in prompts[0]:
        return batch, None
    positions = pad_sequence([prompt["position_ids"][:, 0].T for prompt in prompts], padding_value=1, **left)
    return batch, positions.permute(2, 0, 1)


@contextmanager
def positioned(model, positions: Tensor):
    """While open, `generate` starts from these positions (3, prompts, length), and counts on from the largest."""
    behind = positions.amax((0, 2)) + 1 - positions.shape[-1]

    def get_rope_index(input_ids: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        copies = len(input_ids) // positions.shape[1]  # a prompt's completions stand together
        return positions.repeat_interleave(copies, dim=1), behind.repeat_interleave(copies)[:, None]

    model.model.get_rope_index = get_rope_index  # hides the class's own
    try:
        yield
    finally:
        del model.model.get_rope_index
        model.model.rope_deltas = None  # the trainer brings its own positions


@contextmanager
def counted(model, prompts: Sequence[Mapping[str, Any]]):
    """While open, `generate` knows how many images and clips each prompt shows.

    transformers 4.57.6 counts starts of vision in the text (`_get_image_nums_and_video_nums`), of which Qwen3-VL's has
    one for each step of a clip: several completions of a prompt with a clip would end in a RuntimeError.
    """
    grids = ([prompt[name] for prompt in prompts] for name in ("image_grid_thw", "video_grid_thw"))
    counts = tuple(torch.tensor([0 if grid is None else len(grid) for grid in kind]) for kind in grids)
    model._get_image_nums_and_video_nums = lambda *_, **__: counts
    try:
        yield
    finally:
        del model._get_image_nums_and_video_nums
        model.model.rope_deltas = None


def unsayable(model_config, known: int) -> list[int]:
    """Returns the tokens that must not be sampled: rows of the vocabulary without a text, and those that announce a
    clip or an image, which the trainer would then look for. `known` is the length of the tokenizer.
    """
    vision = (model_config.image_token_id, model_config.video_token_id, model_config.vision_start_token_id)
    return sorted({*vision, *range(known, model_config.get_text_config().vocab_size)})


@torch.no_grad()
def complete(model, prompts: Sequence[Mapping[str, Any]], settings: GenerationConfig, pad: int) -> list[list[int]]:
    """Returns the token ids of the completions, up to and with the token that ends one; those of a prompt together.

    `settings` names the tokens that end a completion. Of a sharded model, `generate` must run FSDP's hooks.
    """
    device = next(model.parameters()).device
    batch, positions = prompt_batch(prompts, pad)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    trained = model.training
    model.eval()  # gradient checkpointing, on while training, would switch the cache off
    with counted(model, prompts) if positions is None else positioned(model, positions.to(device)):
        out = model.generate(
            **batch,
            generation_config=settings,
            use_model_defaults=False,  # or the model's own temperature and penalty would fill what is left at default
            synced_gpus=isinstance(model, FSDPModule) and dist.get_world_size() > 1,
        )
    model.train(trained)
    rows, ends = out[:, batch["input_ids"].shape[1] :].tolist(), settings.eos_token_id
    return [row[: next((i for i, token in enumerate(row, start=1) if token in ends), None)] for row in rows]
