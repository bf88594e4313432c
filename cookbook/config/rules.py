"""The lint: what is wrong with a configuration, by line, with the fix.

Why: an engine that takes any key and checks little finds out on the GPU, or never. Each rule below is a small generator
that looks at the file's values and yields issues; `RULES` lists them. A default that bites is an issue only where the
file leaves the key out: writing it down is consent.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cookbook.config import schema
from cookbook.config.custom import check_custom, options, shipped_options
from cookbook.config.document import Config, ConfigError
from cookbook.config.models import NOT_TAKEN, family_of, shape_of
from cookbook.config.patterns import hits, parameter_names
from cookbook.config.schema import BATCH, GENERATIONS, LENGTH, MINI, POLICY, RESPONSE, ROLLOUT, Issue
from cookbook.data.vision import narrower_limits
from cookbook.runs import ROOT

NODE = 8  # the most GPUs that the engine's launcher takes on one node
VISIBLE = (1, 2, 4, 8)  # the numbers of visible GPUs that it takes


@dataclass(frozen=True)
class View:
    """What the rules see: the effective values of a configuration, and what is known of the machine and the data."""

    config: Config
    bad: frozenset[str] = frozenset()  # keys whose value is of the wrong type: the rules see the default
    gpus: int | None = None  # visible GPUs of one node
    samples: int | None = None
    tokens: int | None = None  # prompt and, in SFT, answer of the longest sample

    def __getitem__(self, key: str) -> Any:
        if key in self.bad:
            return schema.find_key(key, self.config.kind).get("default")
        return self.config[key]

    def stated(self, key: str) -> bool:
        return key in self.config.stated

    @property
    def is_rl(self) -> bool:
        return self.config.kind == "grpo"

    @property
    def has_lora(self) -> bool:
        return isinstance(policy := self.config.document.get("policy"), dict) and "lora" in policy

    @property
    def halves(self) -> tuple[str, ...]:
        """The tables that lay out GPUs: of the policy, and in GRPO of the rollouts."""
        return (POLICY, ROLLOUT) if self.is_rl else (POLICY,)

    def error(self, key: str, message: str) -> Issue:
        return Issue(self.config.line(key), key, message)

    def warning(self, key: str, message: str) -> Issue:
        return Issue(self.config.line(key), key, message, "warning")


def is_stock(view: View) -> bool:
    """Whether the engine trains transformers' model instead of its own."""
    return view["train.force_use_hf"] or not family_of(view["policy.model_name_or_path"]).native


def is_laid_out(view: View) -> bool:
    """Whether SFT lays mini-batches out, and can compile: else transformers' model does neither (engine/bridge)."""
    family = family_of(view["policy.model_name_or_path"])
    return not view.is_rl and view[f"{POLICY}.tp_size"] == 1 and (family.stamped or not is_stock(view))


def processes(view: View, table: str) -> int:
    """Returns the GPUs of one replica as the launcher counts them: tensor x pipeline x context x data parallel."""
    # a tp_size that the file leaves out counts 1 for the launcher and 2 for the workers
    count = view[f"{table}.tp_size"] if view.stated(f"{table}.tp_size") else 1
    for size in ("pp_size", "cp_size", "dp_replicate_size"):
        count *= view[f"{table}.{size}"]
    return count * max(view[f"{table}.dp_shard_size"], 1)


def gpus_needed(view: View) -> tuple[int, int]:
    """Returns the GPUs for (policy, rollout); colocated rollouts and SFT need none of their own."""
    policy = processes(view, POLICY) * view[f"{POLICY}.n_init_replicas"]
    if not view.is_rl or view["mode"] != "disaggregated":
        return policy, 0
    return policy, processes(view, ROLLOUT) * view[f"{ROLLOUT}.n_init_replicas"]


def steps_per_epoch(view: View, samples: int) -> float:
    """Returns the optimizer steps in one pass over the data: whole ones in SFT, a fraction in GRPO.

    SFT drops the last, smaller batch of each epoch; GRPO counts completions across epochs.
    """
    replicas = view[f"{POLICY}.n_init_replicas"]
    if view.is_rl:
        return samples * view[GENERATIONS] / (view[BATCH] * replicas)
    ranks = max(view[f"{POLICY}.dp_shard_size"], 1) * view[f"{POLICY}.dp_replicate_size"]
    return samples // (view[BATCH] * ranks * replicas)


def total_steps(view: View, samples: int) -> int:
    """Returns the optimizer steps of the whole training."""
    steps = math.floor(steps_per_epoch(view, samples) * view["train.epoch"])
    return min(steps, view["train.max_num_steps"] or steps)


# by one of these keys the engine's workers know RL, where the file does not state a type
SIGNS_OF_RL = {"temperature", "epsilon_low", "epsilon_high", "kl_beta", "use_remote_reward"}
# what the engine does where the file leaves a key out
STOPS_OR_MISLEADS = {
    "train.output_dir": "the engine stops with a KeyError; write where results go",
    "train.ckpt.enable_checkpoint": "the default is false, and nothing is saved, not even at the end; write true",
}
SURPRISES = {
    "logging.logger": 'no step, loss or reward is printed; write ["console"]',
    "train.compile": "the default true compiles for a minute, which not every model takes; write which",
    "train.timestamp": "the time of day is appended to output_dir, and the next command must search for it; write a "
    "name",
}


def check_defaults(view: View) -> Iterator[Issue]:
    """Yields keys that must be written down, because what the engine does without them is not what people expect."""
    kind, model = "train.train_policy.type", "policy.model_name_or_path"
    policy = view.config.document.unwrap()["train"].get("train_policy")
    guess = "run SFT" if isinstance(policy, dict) and SIGNS_OF_RL.isdisjoint(policy) else "guess RL"
    then = f"the launcher then starts RL, and the workers {guess}"
    errors = STOPS_OR_MISLEADS | {
        kind: f'{then}; write type = "{view.config.kind}" below [train.train_policy]',
        model: f"the engine then trains {view[model]}; write the model's name or folder",
        **{f"{half}.tp_size": "the launcher counts 1, the workers take the default 2; write 1" for half in view.halves},
    }
    drifts = {"train.train_policy.kl_beta": "the default 0 lets the policy drift freely; write 0.01"}
    for key, words in (errors | SURPRISES | (drifts if view.is_rl else {})).items():
        if not view.stated(key) or (key == "train.timestamp" and not view[key]):
            yield (view.error if key in errors else view.warning)(key, f"not stated: {words}")


SIZES = ("tp_size", "pp_size", "n_init_replicas")
AT_LEAST: dict[str, float] = {
    **dict.fromkeys(["train.epoch", "train.max_num_steps", "train.sync_weight_interval", BATCH, MINI, LENGTH], 1),
    **dict.fromkeys(["train.ckpt.save_freq", "validation.freq", "validation.batch_size", "policy.lora.r"], 1),
    **dict.fromkeys([f"{POLICY}.{size}" for size in (*SIZES, "cp_size", "dp_replicate_size")], 1),
    **dict.fromkeys(["train.optm_warmup_steps", "train.optm_weight_decay", "train.optm_grad_norm_clip"], 0),
}
AT_LEAST_RL: dict[str, float] = {
    **dict.fromkeys([RESPONSE, "rollout.batch_size", "train.train_policy.mu_iterations"], 1),
    **dict.fromkeys([f"{ROLLOUT}.{size}" for size in SIZES], 1),
    GENERATIONS: 2,  # one completion has no group to be better than
    "train.train_policy.kl_beta": 0,
}
# -1 means something, or has a rule of its own
SIGNED = ("top_k", "max_retry_for_on_policy", f"{POLICY}.dp_shard_size", "_min", "_low", "_delta")
ABOVE_ZERO_RL = ("train.train_policy.temperature", "rollout.sampling_config.temperature",
                 "train.train_policy.epsilon_low", "train.train_policy.epsilon_high",
                 "rollout.gpu_memory_utilization")  # fmt: skip


def check_values(view: View) -> Iterator[Issue]:
    """Yields numbers outside what makes sense."""
    limits = AT_LEAST | (AT_LEAST_RL if view.is_rl else {})
    for key, least in limits.items():
        if view.stated(key) and view[key] is not None and view[key] < least:
            yield view.error(key, f"is {view[key]}; it must be at least {least}")
    for key, value in view.config.stated.items():
        if key not in limits and _is_below_zero(view, key, value):
            yield view.error(key, f"is {value}; it must be at least 0")
    for key in ("policy.lora.lora_alpha", *(ABOVE_ZERO_RL if view.is_rl else ())):
        if view.stated(key) and view[key] <= 0:
            yield view.error(key, f"is {view[key]}; it must be above 0")
    if (share := view["policy.lora.lora_dropout"]) >= 1:
        yield view.error("policy.lora.lora_dropout", f"is {share}: nothing would be left; it must be below 1")
    for key, what in {"policy.model_name_or_path": "a model's name or folder", "train.optm_lr": "a rate"}.items():
        if view.stated(key) and view[key] in ("", []):
            yield view.error(key, f"is empty; write {what}")
    rates, table = view["train.optm_lr"], view.config.table("train.optm_lr")
    named = {name: rate for name, rate in table.items() if f"train.optm_lr.{name}" not in view.bad}
    if table and "global" not in table:
        yield view.error("train.optm_lr", 'a table of rates needs "global", the rate of all other parameters')
    elif wrong := [r for r in named.values() or (rates if isinstance(rates, list) else [rates]) if not 0 < r <= 1]:
        level = view.error if min(wrong) <= 0 else view.warning
        yield level("train.optm_lr", f"is {wrong[0]}; a rate must be above 0, and is far below 1")
    if not all(0 <= beta < 1 for beta in view["train.optm_betas"]):
        yield view.error("train.optm_betas", f"is {view['train.optm_betas']}; it takes two numbers from 0 to below 1")
    if view.is_rl and (share := view["rollout.gpu_memory_utilization"]) > 0.95:
        words = f"is {share}; above 0.95 the rollout engine has no room to start"
        yield view.error("rollout.gpu_memory_utilization", words)


def _is_below_zero(view: View, key: str, value: Any) -> bool:
    """Whether a number is below 0 where the engine says nothing of such a one: neither by its default, nor in words."""
    node = schema.find_key(key, view.config.kind)
    if not node or key in view.bad or isinstance(value, bool) or not isinstance(value, int | float) or value >= 0:
        return False
    default, words = node.get("default"), node.get("description", "")
    return not key.endswith(SIGNED) and "-1" not in words and not (isinstance(default, int | float) and default < 0)


def check_combinations(view: View) -> Iterator[Issue]:
    """Yields keys that contradict each other."""
    if view.is_rl:
        sampling, trainer = "rollout.sampling_config.temperature", "train.train_policy.temperature"
        if view[sampling] != view[trainer]:
            words = "the completions then come from another distribution than the one that is trained"
            says = f"is {view[trainer]}, but {sampling} is {view[sampling]}"
            yield view.warning(trainer, f"{says}: {words}; write the same number in both")
        if view["train.train_policy.on_policy"] and view["train.sync_weight_interval"] != 1:
            yield view.error("train.sync_weight_interval", "must be 1 where train.train_policy.on_policy is true")
        if view["mode"] == "colocated" and view["validation.enable"] and view["validation.freq"] == 1:
            words = "is 1: colocated, the engine then measures before the first step, and fails; write 2"
            yield view.warning("validation.freq", words)
    if view.has_lora:
        if not any(targets := view["policy.lora.target_modules"] or ()):
            yield view.error("policy.lora.target_modules", 'not stated: no layer gets an adapter; write "all-linear"')
        elif isinstance(targets, str) and targets != "all-linear":
            yield view.error("policy.lora.target_modules", f'is {targets!r}; the engine takes a list, or "all-linear"')
        if view.is_rl and view["train.compile"]:
            yield view.error("train.compile", "must be false for GRPO with LoRA")
        if view.is_rl and view[f"{POLICY}.tp_size"] != 1:
            yield view.error(f"{POLICY}.tp_size", "must be 1 for GRPO with LoRA")
    if view["train.master_dtype"] != "float32":
        words = "weights of 16 bits do not move by the updates of a fine-tuning; write float32"
        yield view.warning("train.master_dtype", f"is {view['train.master_dtype']}: {words}")
    if view["train.sequence_packing"] and view[MINI] == 1 and not view.is_rl:
        yield view.warning(MINI, "is 1, so train.sequence_packing packs nothing; write 2 or more")
    if view["train.async_tp_enabled"] and not view["train.compile"]:
        yield view.error("train.async_tp_enabled", "needs train.compile = true; write false")
    if view["policy.freeze_pattern"] and view["policy.trainable_pattern"]:
        yield view.error("policy.freeze_pattern", "cannot stand beside policy.trainable_pattern; keep one of them")
    if not view.is_rl and view["train.train_policy.enable_dp_load_balancing"] and not view["train.max_num_steps"]:
        yield view.error("train.max_num_steps", "must be stated where train_policy.enable_dp_load_balancing is true")
    if view["train.ckpt.upload_s3"] and not view["train.ckpt.s3_bucket"]:
        yield view.error("train.ckpt.s3_bucket", "must be stated where train.ckpt.upload_s3 is on")


def check_gpus(view: View) -> Iterator[Issue]:
    """Yields layouts that cannot start: too many GPUs, a number that the launcher refuses, unequal colocated halves."""
    shard = f"{POLICY}.dp_shard_size"
    if view[shard] < 1:
        yield view.error(shard, f"is {view[shard]}: the launcher counts 1 GPU; write the number of GPUs")
        return
    if view.gpus is not None and view.gpus not in VISIBLE:
        yield view.error(shard, f"{view.gpus} GPUs are visible, and the launcher takes 1, 2, 4 or 8; hide some")
    policy, rollout = gpus_needed(view)
    total, available = policy + rollout, view.gpus or NODE
    if total > available:
        halves = f" ({policy} for the policy, {rollout} for rollouts)" if rollout else ""
        where = f"{available} are visible" if view.gpus else f"a node has at most {NODE}"
        room = max(n for n in VISIBLE if n <= max(available - rollout, 1))
        yield view.error(shard, f"the layout asks for {total} GPUs{halves}, and {where}; write {room}")
    if view["mode"] == "colocated":
        ours, theirs = (view[f"{half}.n_init_replicas"] for half in (POLICY, ROLLOUT))
        gpus, rollout_gpus = processes(view, POLICY), processes(view, ROLLOUT)
        if not view.is_rl:
            yield view.error("mode", 'is "colocated", which SFT cannot start; remove the line')
        elif ours != theirs:
            words = f"colocated halves need equal numbers: {ours} policy, {theirs} rollout replicas; write {ours}"
            yield view.error(f"{ROLLOUT}.n_init_replicas", words)
        elif gpus != rollout_gpus:
            words = f"the policy has {gpus}, the rollout {rollout_gpus}; write the policy's sizes"
            yield view.error(f"{ROLLOUT}.dp_shard_size", f"colocated halves need equal GPUs: {words}")
    for table in view.halves:
        if view.is_rl and view[f"{table}.dp_replicate_size"] != 1:
            yield view.error(f"{table}.dp_replicate_size", "must be 1 in GRPO; raise n_init_replicas instead")
        parallel = view[f"{table}.tp_size"]
        name = view["policy.model_name_or_path"]
        heads = model.heads if (model := shape_of(name)) else 28 if "7B" in name else parallel
        if heads % parallel:
            yield view.error(f"{table}.tp_size", f"is {parallel}, and the model has {heads} heads; write 1, 2 or 4")


def check_batches(view: View) -> Iterator[Issue]:
    """Yields batches that do not divide. In SFT the batch is per data-parallel rank, in GRPO it counts completions."""
    batch, mini, shard = view[BATCH], view[MINI], max(view[f"{POLICY}.dp_shard_size"], 1)
    if min(batch, mini) < 1:
        return
    stands = f"{BATCH} = {batch}"
    if not view.is_rl and batch % mini:
        yield view.error(MINI, f"{stands} must be a multiple of it; write {_divisor(batch, mini)}")
    if view.is_rl:
        if batch % (shard * mini):
            room = _divisor(batch // shard, mini) if batch % shard == 0 else None
            fix = f"write {room}" if room else f"make {BATCH} a multiple of {shard} first"
            yield view.error(MINI, f"{stands} completions must be a multiple of dp_shard_size {shard} x {mini}; {fix}")
        group, inner = view[GENERATIONS], "train.train_policy.batch_size_per_optimize"
        if group > 0 and batch % group:
            words = f"{stands} completions must be a multiple of it; write {_divisor(batch, group)}"
            yield view.error(GENERATIONS, f"is {group}, and {words}")
        if view[inner] and batch % view[inner]:
            yield view.error(inner, f"is {view[inner]}; {stands} must be a multiple of it")
    micro = view[f"{POLICY}.pp_micro_batch_size"]
    if view[f"{POLICY}.pp_size"] > 1 and (micro < 1 or batch % micro):
        yield view.error(f"{POLICY}.pp_micro_batch_size", f"is {micro}; {stands} must be a multiple of it")
    if view.samples is not None and steps_per_epoch(view, view.samples) < 1:
        rows = batch // max(view[GENERATIONS], 1) if view.is_rl else batch * shard
        words = f"one step takes {rows} samples, and there are {view.samples}: lower it to fill at least one step"
        yield view.error(BATCH, words)
    elif view.samples is not None and view["train.optm_warmup_steps"] >= (steps := total_steps(view, view.samples)):
        words = f"of {steps} steps in all: the rate never reaches what is stated; lower it, or raise train.epoch"
        yield view.warning("train.optm_warmup_steps", words)


def check_lengths(view: View) -> Iterator[Issue]:
    """Yields texts that do not fit into the model's length: the engine cuts them without a word."""
    room, response = view[LENGTH], view[RESPONSE] if view.is_rl else 0
    needed = (view.tokens or 0) + response
    if view.is_rl and response >= room:
        words = f"is {response}, and {LENGTH} = {room} must hold the prompt as well; lower it or raise that"
        yield view.error(RESPONSE, words)
    elif view.is_rl and needed > room:
        words = f"the longest prompt has {view.tokens} tokens and the response may take {response}"
        yield view.error(LENGTH, f"is {room}, but {words}; write {needed} or more")
    elif view.tokens and needed > room:
        words = f"the longest sample has {needed} tokens: its answer would be cut without a word"
        yield view.error(LENGTH, f"is {room}, but {words}; write {needed} or more, or lower the clips' pixels")


def _divisor(number: int, near: int) -> int:
    """Returns the largest divisor of number that is not above `near`; 1 where none is found soon."""
    most = min(near, number)
    return next((n for n in range(most, max(most - 100_000, 0), -1) if number % n == 0), 1)


def check_patterns(view: View) -> Iterator[Issue]:
    """Yields patterns that hit nothing in the model: the engine goes on without a word."""
    if "policy.model_name_or_path" in view.bad:
        return
    try:
        for key, pattern, names in hits(view.config):
            if not names:
                known = ", ".join(sorted({n.split(".")[0] for n in parameter_names(view["policy.model_name_or_path"])}))
                yield view.error(key, f"{pattern!r} hits nothing in the model, whose names begin with {known}; mend it")
    except (ValueError, OSError) as error:
        yield view.error("policy", str(error))


def check_loader(view: View) -> Iterator[Issue]:
    """Yields what the loader would refuse in [custom]; where no loader is named, what none of the project's reads."""
    stated = view.config.table("custom")
    if isinstance(passport := stated.get("passport"), str) and passport and not (ROOT / passport).is_file():
        yield view.error("custom.passport", f"{passport!r}: no such file; `python -m data_tools.passport` writes one")
    if isinstance(named := stated.get("loader"), str):
        if not (ROOT / named).is_file():
            words = f"{named!r}: no such loader file; those of the project are in data_tools/"
            yield view.error("custom.loader", words)
        yield from check_custom(view.config, options(ROOT / named), f"{named} does not read it")
    elif stated:
        yield from check_custom(view.config, shipped_options(), "no loader of data_tools reads it", "warning")


def check_vision(view: View) -> Iterator[Issue]:
    """Yields a contract that is not there, and a checkpoint with narrower limits: the engine would resize again."""
    stated, folder = view.config.table("custom").get("contract"), ROOT / view["policy.model_name_or_path"]
    if isinstance(stated, str) and not (ROOT / stated).is_file():
        yield view.error("custom.contract", f"{stated!r}: no such file; those of the project are in configs/prompts/")
    if not isinstance(stated, str) or not folder.is_dir():
        return
    from cookbook.data.contract import Contract  # which reads YAML, for this alone

    try:
        if words := narrower_limits(folder, Contract.load(ROOT / stated).for_base(family_of(str(folder))).vision):
            yield view.warning("policy.model_name_or_path", words)
    except (ValueError, OSError) as error:
        yield view.error("custom.contract", " ".join(str(error).split()))


def check_family(view: View) -> Iterator[Issue]:
    """Yields what the engine cannot do with a family that it has no model of its own for: it trains transformers'."""
    key = "policy.model_name_or_path"
    if NOT_TAKEN in (name := view[key]):
        words = "holds a generator beside its reasoner, and the two are not taken apart here"
        yield view.error(key, f"{name} {words}; Cosmos-Reason2-8B has the reasoner's shape: write its name")
    with suppress(ValueError):  # a config.json that cannot be read: `check_patterns` and the launch say so
        if is_stock(view) and not is_laid_out(view):
            if view["train.sequence_packing"]:
                words = "packs transformers' model with flash-attn alone, and ends the first step without it"
                yield view.warning("train.sequence_packing", f"{words}; write false")
            if view["train.compile"]:
                yield view.error("train.compile", "must be false: the engine asserts it for transformers' model")
        if not family_of(name).native:
            for size in (f"{POLICY}.cp_size", f"{POLICY}.pp_size"):
                if view[size] != 1:
                    yield view.error(size, "must be 1 for this model: the engine trains transformers' own")


RULES = (check_defaults, check_combinations, check_gpus, check_batches, check_lengths, check_patterns, check_loader,
         check_vision, check_family)  # fmt: skip


def sound_view(config: Config, **known: int | None) -> tuple[View, list[Issue]]:
    """Returns what rules and plan compute with, the default in place of each value that is none, and those issues."""
    found = list(schema.check(config.stated, config.kind, config.line))
    view = View(config, frozenset(f.key for f in found), **known)
    found += (values := list(check_values(view)))
    return replace(view, bad=view.bad | {f.key for f in values if f.level == "error"}), found


def lint(config: Config, **known: int | None) -> list[Issue]:
    """Returns everything that is wrong with a configuration, in the order of its lines; an empty list when it is good.

    What may be known: `gpus`, visible on one node; `samples`, items in the training set; `tokens` of the longest
    sample, vision and text; in RL of its prompt.
    """
    if not isinstance(config.document.get("train"), dict):
        return [Issue(1, "train", "there is no [train] table: the engine stops with a KeyError; add one")]
    view, found = sound_view(config, **known)
    for rule in RULES:
        found += rule(view)
    return sorted(found, key=lambda f: (f.line, f.level))


def require(config: Config, *, kind: str | None = None, **known: int | None) -> Config:
    """Returns the configuration. Raises ConfigError with every error of `lint`; warnings pass.

    `kind`: "sft" or "grpo", what the caller is about to run; `known`: as in `lint`.
    """
    if kind and config.kind != kind:
        raise ConfigError(f'{config.name}: [train.train_policy] type is "{config.kind}", and must be "{kind}" here')
    if errors := [f"{config.name}:{f}" for f in lint(config, **known) if f.level == "error"]:
        raise ConfigError("\n".join(errors))
    return config
