"""The lint: what is wrong with a configuration, by line, with the fix.

Why: an engine that takes any key and checks little finds out on the GPU, or never. Each rule below is a small generator
that looks at the file's values and yields findings; `RULES` lists them. A default that bites is a finding only where
the file leaves the key out: writing it down is consent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cookbook.config import schema
from cookbook.config.document import Config, ConfigError
from cookbook.config.schema import BATCH, GENERATIONS, LENGTH, MINI, POLICY, RESPONSE, ROLLOUT, Finding

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
            return schema.find(key, self.config.kind).get("default")
        return self.config[key]

    def stated(self, key: str) -> bool:
        return key in self.config.stated

    @property
    def is_rl(self) -> bool:
        return self.config.kind == "grpo"

    def error(self, key: str, message: str) -> Finding:
        return Finding(self.config.line(key), key, message)

    def warning(self, key: str, message: str) -> Finding:
        return Finding(self.config.line(key), key, message, "warning")


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


# ---- defaults that bite -----------------------------------------------------------------------------------------


def _guessed(config: Config) -> str:
    """Returns what the engine's workers run where the file does not state a type."""
    policy = config.document.unwrap()["train"].get("train_policy")
    signs = ("temperature", "epsilon_low", "epsilon_high", "kl_beta", "use_remote_reward")
    return "run SFT" if policy is not None and not any(key in policy for key in signs) else "guess RL"


def check_defaults(view: View) -> Iterator[Finding]:
    """Yields keys that must be written down, because what the engine does without them is not what people expect."""
    if not view.stated("train.train_policy.type"):
        yield view.error(
            "train.train_policy.type",
            f"not stated: the launcher then starts RL, and the workers {_guessed(view.config)}; write type = "
            f'"{view.config.kind}" below [train.train_policy]',
        )
    if not view.stated("train.output_dir"):
        yield view.error("train.output_dir", "not stated: the engine stops with a KeyError; write where results go")
    if not view.stated("policy.model_name_or_path"):
        yield view.error(
            "policy.model_name_or_path",
            f"not stated: the engine then trains {view['policy.model_name_or_path']}; write the model's name or folder",
        )
    if not view.stated("train.ckpt.enable_checkpoint"):
        yield view.error(
            "train.ckpt.enable_checkpoint",
            "not stated: the default is false, and nothing is saved, not even at the end; write true",
        )
    for table in (POLICY, ROLLOUT) if view.is_rl else (POLICY,):
        if not view.stated(f"{table}.tp_size"):
            yield view.error(
                f"{table}.tp_size", "not stated: the launcher counts 1, the workers take the default 2; write 1"
            )
    if not view.stated("logging.logger"):
        yield view.warning("logging.logger", 'not stated: no step, loss or reward is printed; write ["console"]')
    if not view.stated("train.compile"):
        yield view.warning("train.compile", "not stated: the default true compiles for minutes; write false")
    if not view["train.timestamp"]:
        yield view.warning(
            "train.timestamp",
            "not stated: the time of day is appended to output_dir, and the next command must search for it; write a "
            "name",
        )
    if view.is_rl and not view.stated("train.train_policy.kl_beta"):
        yield view.warning(
            "train.train_policy.kl_beta", "not stated: the default 0 lets the policy drift freely; write 0.01"
        )


# ---- values -----------------------------------------------------------------------------------------------------

AT_LEAST: dict[str, float] = {
    "train.epoch": 1,
    BATCH: 1,
    MINI: 1,
    LENGTH: 1,
    "train.ckpt.save_freq": 1,
    "train.optm_warmup_steps": 0,
    "train.optm_weight_decay": 0,
    "train.optm_grad_norm_clip": 0,
    "train.sync_weight_interval": 1,
    "train.max_num_steps": 1,
    "validation.freq": 1,
    "validation.batch_size": 1,
    "policy.lora.r": 1,
    **{f"{POLICY}.{size}": 1 for size in ("tp_size", "pp_size", "cp_size", "dp_replicate_size", "n_init_replicas")},
}
AT_LEAST_RL: dict[str, float] = {
    GENERATIONS: 2,  # one completion has no group to be better than
    RESPONSE: 1,
    "rollout.batch_size": 1,
    "train.train_policy.kl_beta": 0,
    "train.train_policy.mu_iterations": 1,
    **{f"{ROLLOUT}.{size}": 1 for size in ("tp_size", "pp_size", "n_init_replicas")},
}
ABOVE_ZERO_RL = ("train.train_policy.temperature", "rollout.sampling_config.temperature",
                 "train.train_policy.epsilon_low", "train.train_policy.epsilon_high",
                 "rollout.gpu_memory_utilization")  # fmt: skip


def check_values(view: View) -> Iterator[Finding]:
    """Yields numbers outside what makes sense."""
    limits = AT_LEAST | (AT_LEAST_RL if view.is_rl else {})
    for key, least in limits.items():
        value = view[key] if view.stated(key) else None
        if value is not None and value < least:
            yield view.error(key, f"is {value}; it must be at least {least}")
    for key in ABOVE_ZERO_RL if view.is_rl else ():
        if view.stated(key) and view[key] <= 0:
            yield view.error(key, f"is {view[key]}; it must be above 0")
    rates = view["train.optm_lr"]
    if isinstance(rates, dict) or view.config.table("train.optm_lr"):
        if "global" not in view.config.table("train.optm_lr"):
            yield view.error("train.optm_lr", 'a table of rates needs "global", the rate of all other parameters')
    elif any(rate <= 0 for rate in (rates if isinstance(rates, list) else [rates])):
        yield view.error("train.optm_lr", f"is {rates}; it must be above 0")
    if not all(0 <= beta < 1 for beta in view["train.optm_betas"]) or len(view["train.optm_betas"]) != 2:
        yield view.error("train.optm_betas", f"is {view['train.optm_betas']}; it takes two numbers from 0 to below 1")
    if view.is_rl and view["rollout.gpu_memory_utilization"] > 0.95:
        yield view.error(
            "rollout.gpu_memory_utilization",
            f"is {view['rollout.gpu_memory_utilization']}; above 0.95 the rollout engine has no room to start",
        )


def check_combinations(view: View) -> Iterator[Finding]:
    """Yields keys that contradict each other."""
    if view.is_rl:
        sampling, trainer = "rollout.sampling_config.temperature", "train.train_policy.temperature"
        if view[sampling] != view[trainer]:
            yield view.warning(
                trainer,
                f"is {view[trainer]}, but {sampling} is {view[sampling]}: the completions then come from another "
                "distribution than the one that is trained; write the same number in both",
            )
        if view["train.train_policy.on_policy"] and view["train.sync_weight_interval"] != 1:
            yield view.error("train.sync_weight_interval", "must be 1 where train.train_policy.on_policy is true")
        if view["mode"] == "colocated" and view["validation.enable"] and view["validation.freq"] == 1:
            yield view.warning(
                "validation.freq", "is 1: colocated, the engine then measures before the first step, and fails; write 2"
            )
    if view.config.table("policy.lora"):
        if not view.stated("policy.lora.target_modules"):
            yield view.error("policy.lora.target_modules", 'not stated: no layer gets an adapter; write "all-linear"')
        if view.is_rl and view["train.compile"]:
            yield view.error("train.compile", "must be false for GRPO with LoRA")
        if view.is_rl and view[f"{POLICY}.tp_size"] != 1:
            yield view.error(f"{POLICY}.tp_size", "must be 1 for GRPO with LoRA")
    if view["train.force_use_hf"] and view["train.compile"]:
        yield view.error("train.compile", "must be false where train.force_use_hf is true: the engine asserts it")
    if view["train.async_tp_enabled"] and not view["train.compile"]:
        yield view.error("train.async_tp_enabled", "needs train.compile = true; write false")
    if view["policy.freeze_pattern"] and view["policy.trainable_pattern"]:
        yield view.error("policy.freeze_pattern", "cannot stand beside policy.trainable_pattern; keep one of them")
    if not view.is_rl and view["train.train_policy.enable_dp_load_balancing"] and not view["train.max_num_steps"]:
        yield view.error("train.max_num_steps", "must be stated where train_policy.enable_dp_load_balancing is true")
    if view["train.ckpt.upload_s3"] and not view["train.ckpt.s3_bucket"]:
        yield view.error("train.ckpt.s3_bucket", "must be stated where train.ckpt.upload_s3 is on")


# ---- GPUs, batches, lengths -------------------------------------------------------------------------------------


def check_gpus(view: View) -> Iterator[Finding]:
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
        room = max(n for n in (1, *VISIBLE) if n <= max(available - rollout, 1))
        yield view.error(shard, f"the layout asks for {total} GPUs{halves}, and {where}; write {room}")
    if view["mode"] == "colocated":
        replicas = (view[f"{POLICY}.n_init_replicas"], view[f"{ROLLOUT}.n_init_replicas"])
        sizes = (processes(view, POLICY), processes(view, ROLLOUT))
        if not view.is_rl:
            yield view.error("mode", 'is "colocated", which SFT cannot start; remove the line')
        elif replicas[0] != replicas[1]:
            yield view.error(
                f"{ROLLOUT}.n_init_replicas",
                f"colocated halves need equal numbers: {replicas[0]} policy, {replicas[1]} rollout replicas; write "
                f"{replicas[0]}",
            )
        elif sizes[0] != sizes[1]:
            yield view.error(
                f"{ROLLOUT}.dp_shard_size",
                f"colocated halves need equal GPUs: the policy has {sizes[0]}, the rollout {sizes[1]}; write the "
                "policy's sizes",
            )
    for table in (POLICY, ROLLOUT) if view.is_rl else (POLICY,):
        if view.is_rl and view[f"{table}.dp_replicate_size"] != 1:
            yield view.error(f"{table}.dp_replicate_size", "must be 1 in GRPO; raise n_init_replicas instead")
        if "7B" in view["policy.model_name_or_path"] and 28 % view[f"{table}.tp_size"]:
            yield view.error(
                f"{table}.tp_size", f"is {view[f'{table}.tp_size']}, and the model has 28 heads; write 1, 2 or 4"
            )


def check_batches(view: View) -> Iterator[Finding]:
    """Yields batches that do not divide. In SFT the batch is per data-parallel rank, in GRPO it counts completions."""
    batch, mini, shard = view[BATCH], view[MINI], max(view[f"{POLICY}.dp_shard_size"], 1)
    if min(batch, mini) < 1:
        return
    if not view.is_rl:
        if batch % mini:
            yield view.error(MINI, f"{BATCH} = {batch} must be a multiple of it; write {_divisor(batch, mini)}")
    else:
        if batch % (shard * mini):
            room = _divisor(batch // shard, mini) if batch % shard == 0 else None
            fix = f"write {room}" if room else f"make {BATCH} a multiple of {shard} first"
            yield view.error(
                MINI, f"{BATCH} = {batch} completions must be a multiple of dp_shard_size {shard} x {mini}; {fix}"
            )
        if view[GENERATIONS] > 0 and batch % view[GENERATIONS]:
            yield view.error(
                GENERATIONS,
                f"is {view[GENERATIONS]}, and {BATCH} = {batch} completions must be a multiple of it; write "
                f"{_divisor(batch, view[GENERATIONS])}",
            )
        inner = view["train.train_policy.batch_size_per_optimize"]
        if inner and batch % inner:
            yield view.error(
                "train.train_policy.batch_size_per_optimize", f"is {inner}; {BATCH} = {batch} must be a multiple of it"
            )
    micro = view[f"{POLICY}.pp_micro_batch_size"]
    if view[f"{POLICY}.pp_size"] > 1 and (micro < 1 or batch % micro):
        yield view.error(f"{POLICY}.pp_micro_batch_size", f"is {micro}; {BATCH} = {batch} must be a multiple of it")
    if view.samples is not None and steps_per_epoch(view, view.samples) < 1:
        rows = batch // max(view[GENERATIONS], 1) if view.is_rl else batch * shard
        yield view.error(
            BATCH, f"one step takes {rows} samples, and there are {view.samples}: lower it to fill at least one step"
        )


def check_lengths(view: View) -> Iterator[Finding]:
    """Yields texts that do not fit into the model's length: the engine cuts them without a word."""
    room = view[LENGTH]
    if view.is_rl and view[RESPONSE] >= room:
        yield view.error(
            RESPONSE, f"is {view[RESPONSE]}, and {LENGTH} = {room} must hold the prompt as well; lower it or raise that"
        )
    elif view.is_rl and view.tokens is not None and view.tokens + view[RESPONSE] > room:
        yield view.error(
            LENGTH,
            f"is {room}, but the longest prompt has {view.tokens} tokens and the response may take {view[RESPONSE]}; "
            f"write {view.tokens + view[RESPONSE]} or more",
        )
    elif not view.is_rl and view.tokens is not None and view.tokens > room:
        yield view.error(
            LENGTH,
            f"is {room}, but the longest sample has {view.tokens} tokens: its answer would be cut without a word; "
            f"write {view.tokens} or more, or lower the clips' pixels",
        )


def _divisor(number: int, near: int) -> int:
    """Returns the largest divisor of number that is not above `near`."""
    return max(n for n in range(1, max(near, 1) + 1) if number % n == 0)


RULES: tuple[Callable[[View], Iterator[Finding]], ...] = (
    check_defaults,
    check_values,
    check_combinations,
    check_gpus,
    check_batches,
    check_lengths,
)


def lint(
    config: Config, *, gpus: int | None = None, samples: int | None = None, tokens: int | None = None
) -> list[Finding]:
    """Returns everything that is wrong with a configuration, in the order of its lines; an empty list when it is good.

    `gpus`: visible GPUs of one node (None: any node). `samples`: items in the training set. `tokens`: of the longest
    sample, vision and text; in RL of its prompt.
    """
    found = list(schema.check(config.stated, config.kind, config.line))
    if not isinstance(config.document.get("train"), dict):
        return [Finding(1, "train", "there is no [train] table: the engine stops with a KeyError; add one")]
    view = View(config, frozenset(f.key for f in found), gpus, samples, tokens)
    for rule in RULES:
        found += rule(view)
    return sorted(found, key=lambda f: (f.line, f.level))


def require(config: Config, *, kind: str | None = None, **known: int | None) -> Config:
    """Returns the configuration. Raises ConfigError with every error of `lint`; warnings pass.

    `kind`: "sft" or "grpo", what the caller is about to run; `known`: as in `lint`.
    """
    if kind and config.kind != kind:
        raise ConfigError(f'{config.name}: [train.train_policy] type is "{config.kind}", and must be "{kind}" here')
    errors = [f"{config.name}:{f}" for f in lint(config, **known) if f.level == "error"]
    if errors:
        raise ConfigError("\n".join(errors))
    return config
