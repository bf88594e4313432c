"""The rollout backend "transformers": what generates the completions of GRPO where vLLM is not installed.

Why: cosmos-rl 0.4.7 has two backends for language, vLLM, which is not there with a plain pip install, and `example_hf`
(rollout/example_custom_rollout/example_custom_rollout.py), which reads text only. To import this registers it.

With `mode = "colocated"` the policy lends its weights for each call, as its forward pass rounds them, and adapters as
adapters: added to weights of 16 bits, small ones would vanish. So any policy will do, the engine's own and fast one
too, and nothing is gathered or cast for each token. Otherwise a copy has GPUs of its own, a whole one on each, whose
weights the engine replaces after each step. A prompt goes through once for all its completions
(`cookbook.model.generation`).
Completions go back as text, and the trainer tokenizes them again (grpo_trainer.py:1155): so the token that ends one is
never trained, and a word that was sampled in unusual pieces is trained in the usual ones. With
`train.train_policy.rollout_as_token_ids = true` it gets the sampled tokens.
A rollout must see what the trainer sees, or the policy is graded on another clip than it answered to. So a prompt is
what the engine's own packer makes of it: token ids, pixels, and rotary positions, for transformers would compute others
(CONTRIBUTING.md); of Qwen3-VL it makes none, and the trainer's model and this one compute the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

import torch
from accelerate import init_empty_weights
from cosmos_rl.policy.lora.plugin import LoraInjectedLinear
from cosmos_rl.rollout.rollout_base import RolloutBase, RolloutRegistry
from cosmos_rl.rollout.schema import RolloutResult
from cosmos_rl.utils.logging import logger
from cosmos_rl.utils.util import clear_weight_name, str2torch_dtype
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, generation

from cookbook.data.architecture import of_config
from cookbook.model.decoding import GROUPED
from cookbook.model.generation import generate, to
from cookbook.model.vision_tower import batch_vision

TOLD = "%d completions, %d tokens: clips read in %.2f s, weights lent in %.2f s, generated in %.2f s"
BACKEND = "transformers"  # the configurations' rollout.backend
MEDIA_KEYS = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")
NESTED = {"visual.": "model.visual.", "model.lm_head.": "lm_head.", "model.": "model.language_model."}


@RolloutRegistry.register(BACKEND, allow_override=True)
class TransformersRollout(RolloutBase):
    """Generates with transformers, all prompts of a call in one batch."""

    def post_init_hook(self, **_: Any) -> None:
        """Called by the engine first. Raises ValueError for what the configuration asks and this cannot do."""
        self.model = self.policy = self._model_param_map = None
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
        kind = {"dtype": str2torch_dtype(self.config.train.param_dtype), "attn_implementation": GROUPED}
        if self.config.mode == "colocated":
            with init_empty_weights(include_buffers=False):
                self.model = AutoModelForImageTextToText.from_config(self.model_config, **kind)
        else:
            self.model = AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=False, **kind)
            self.model.to(self.device)
        batch_vision(self.model.eval())
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
        """Called by the engine in colocated mode, after each step: the policy, whose weights each call borrows."""
        if self.policy is None:  # until here the engine compared names, of whole weights
            for name, theirs in model.named_modules():
                if isinstance(theirs, LoraInjectedLinear):
                    own = self.model.get_submodule(name := stock_name(model, name))
                    made = LoraInjectedLinear.from_linear(own, theirs.r, theirs.lora_alpha, lora_dropout=0.0)
                    made.scaling = theirs.scaling
                    self.model.set_submodule(name, made)
        self.policy = model

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """While open, the model has the policy's weights. Of a sharded policy every process must come here."""
        if self.policy is None:
            yield
            return
        empty = self.model.state_dict()
        self.model.load_state_dict(lent(self.policy, self.model.dtype), assign=True)
        self.model.to(self.device)
        try:
            yield
        finally:
            self.model.load_state_dict(empty, assign=True)

    def rollout_generation(
        self, payloads, stream, data_packer, data_fetcher, is_validation: bool = False, *_: Any, **__: Any
    ) -> list[RolloutResult]:
        """Called by the engine with a batch of prompts. Returns one RolloutResult for each."""
        tokenizer, settings = data_packer.tokenizer, sampling(self.config, is_validation)
        ends, banned = self._ends(tokenizer), unsayable(self.model_config, len(tokenizer))
        self.model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
        began = perf_counter()
        with cut_on(self.device, data_packer):
            prompts = [data_packer.get_policy_input(payload.prompt) for payload in payloads]
        read = perf_counter()
        with self._lent():
            ready = perf_counter()
            rows = complete(self.model, prompts, settings, banned)
        spent = read - began, ready - read, perf_counter() - ready
        logger.info(TOLD, len(rows), sum(map(len, rows)), *spent)
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


@contextmanager
def cut_on(device: torch.device, data_packer: Any) -> Iterator[None]:
    """While open, the packer cuts clips into patches on this device, which takes a CPU a tenth of a GRPO step."""
    cutter = getattr(getattr(data_packer, "hf_processor", None), "video_processor", None)
    before = getattr(cutter, "device", None)
    if cutter is not None:
        cutter.device = str(device)
    try:
        yield
    finally:
        if cutter is not None:
            cutter.device = before  # else it would be saved with the processor


def sampling(config: Any, is_validation: bool) -> dict[str, Any]:
    """Returns how the engine's configuration wants its completions: [rollout], or in a validation [validation].

    What [validation] leaves open is as in [rollout]. Temperature 0 takes the likeliest token: then all completions of a
    prompt are the same, so one is made.
    """
    keys, part = ("temperature", "top_p", "top_k", "repetition_penalty"), config.rollout
    found, length = {key: getattr(part.sampling_config, key) for key in keys}, part.max_response_length
    if is_validation:
        part = config.validation
        found |= {key: getattr(part, key) for key in keys if getattr(part, key) is not None}
        length = part.max_response_length or length
    return found | {"max_new_tokens": length, "copies": part.n_generation if found["temperature"] > 0 else 1}


def prompt_batch(prompts: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Tensor]:
    """Returns prompts as the packer makes them for the trainer in one left-padded batch, with their rotary positions.

    Ids and mask are (prompts, length), positions (3, prompts, length) where the packer makes them; clips and
    images follow one another.
    """
    ids, left = [torch.tensor(prompt["input_ids"]) for prompt in prompts], {"batch_first": True, "padding_side": "left"}
    batch = {"input_ids": pad_sequence(ids, padding_value=pad, **left)}
    batch["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], **left)
    if "position_ids" in prompts[0]:
        positions = pad_sequence([prompt["position_ids"][:, 0].T for prompt in prompts], padding_value=1, **left)
        batch["position_ids"] = positions.permute(2, 0, 1)
    for name in MEDIA_KEYS:
        if found := [prompt[name] for prompt in prompts if prompt[name] is not None]:
            batch[name] = torch.cat([one.to(found[0].device) for one in found])  # the trainer's are cut on the CPU
    return batch


def stock_name(policy: nn.Module, name: str) -> str:
    """Returns transformers' name of a policy's weight or module. The engine's own model nests its parts otherwise."""
    name = clear_weight_name(name)
    start = "" if hasattr(policy, "generate") else next((start for start in NESTED if name.startswith(start)), "")
    return NESTED.get(start, "") + name.removeprefix(start)


@torch.no_grad()
def lent(policy: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns a policy's weights by transformers' names, cast as for its own forward pass; of a sharded one, whole."""
    found = {}
    for name, weight in policy.named_parameters():
        weight = weight.detach().to(dtype)
        found[stock_name(policy, name)] = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return {"lm_head.weight": found["model.language_model.embed_tokens.weight"], **found}  # where the two are tied


def unsayable(model_config, known: int) -> list[int]:
    """Returns the tokens that must not be sampled: rows of the vocabulary without a text, and those that announce a
    clip or an image, which the trainer would then look for. `known` is the length of the tokenizer.
    """
    vision = (model_config.image_token_id, model_config.video_token_id, model_config.vision_start_token_id)
    return sorted({*vision, *range(known, model_config.get_text_config().vocab_size)})


def complete(model, prompts: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], banned=()) -> list[list[int]]:
    """Returns the token ids of the completions, up to and with the token that ends one; those of a prompt together.

    The model's generation configuration names the tokens that end a completion; its other habits do not count.
    """
    penalty, warps = float(settings["repetition_penalty"]), generation.LogitsProcessorList()
    warps.append(generation.SuppressTokensLogitsProcessor(banned, model.device))
    warps += [generation.RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1 else []
    warps += [generation.TopKLogitsWarper(settings["top_k"])] if settings["top_k"] > 0 else []  # -1: all tokens
    warps += [generation.TopPLogitsWarper(settings["top_p"])] if settings["top_p"] < 1 else []
    batch = to(model, prompt_batch(prompts, model.generation_config.pad_token_id))
    if "position_ids" not in batch:
        shown = {name: batch[name] for name in ("image_grid_thw", "video_grid_thw") if name in batch}
        asked = batch["input_ids"], batch["attention_mask"]
        batch["position_ids"], _ = model.model.get_rope_index(asked[0], attention_mask=asked[1], **shown)
    how = settings["max_new_tokens"], settings["temperature"], settings["copies"]
    out = generate(model, batch, *how, warp=warps)
    return [tokens[mask].tolist() for tokens, mask in zip(out.tokens, out.mask)]
