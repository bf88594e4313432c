"""LoRA at its own price: frozen weights of 16 bits, and a reference that is the policy without its adapters.

Why: cosmos-rl 0.4.7 makes all of a model in `train.master_dtype` (policy/model/base.py, build_hf_model). Weights that
never change are cast to `param_dtype` for each use, so 32 bits of them are 15 GiB of 7B for nothing. And with `kl_beta`
above 0 it keeps the whole model once more in main memory, and swaps all of it with the GPU's twice a step
(policy/trainer/llm_trainer/grpo_trainer.py, _swap_model_state_dict), although only adapters ever differ.
Used by `cookbook.engine.bridge`.
"""

from functools import wraps


def install_lora() -> str:
    """Put both in place, for trainings that only adapters learn in. Returns what they do."""
    from cosmos_rl.policy.model.base import ModelRegistry
    from cosmos_rl.policy.trainer.llm_trainer.grpo_trainer import GRPOTrainer

    if not hasattr(GRPOTrainer._swap_model_state_dict, "bare"):
        GRPOTrainer._swap_model_state_dict = _unless_adapters(GRPOTrainer._swap_model_state_dict, _switch)
        GRPOTrainer._reference_model_state = _unless_adapters(GRPOTrainer._reference_model_state, lambda trainer: {})
        ModelRegistry.build_hf_model = staticmethod(_with_small_base(ModelRegistry.build_hf_model))
    return "frozen weights in 16 bits, reference without adapters"


def _with_small_base(bare):
    """Returns the engine's `build_hf_model`, whose frozen weights have the type that they are computed with.

    Not for rollouts on other GPUs: for those the engine adds adapters to the weights and takes them off again, which 16
    bits do not survive.
    """

    @wraps(bare)
    def build(config, *args, **kwargs):
        from cosmos_rl.utils.util import str2torch_dtype

        model = bare(config, *args, **kwargs)
        if config.policy.lora is not None and (config.train.train_policy.type == "sft" or config.mode == "colocated"):
            for weight in model.parameters():
                if not weight.requires_grad:
                    weight.data = weight.data.to(str2torch_dtype(config.train.param_dtype))
        return model

    build.bare = bare
    return build


def _unless_adapters(bare, ours):
    """Returns the trainer's method, and ours where its reference is the base that its adapters stand on."""

    @wraps(bare)
    def method(trainer):
        lora, policy = trainer.config.policy.lora, trainer.config.train.train_policy
        alone = lora is not None and not lora.modules_to_save and not policy.reference_reset_interval
        return (ours if alone and policy.kl_beta else bare)(trainer)

    method.bare = bare
    return method


def _switch(trainer) -> tuple[bool, float]:
    """Take the adapters out of the forward pass, or back into it: called before and after the reference computes.

    The engine's layer leaves its adapter out where it counts as merged.
    """
    from cosmos_rl.policy.lora.plugin import LoraInjectedLinear

    for module in trainer.model.modules():
        if isinstance(module, LoraInjectedLinear):
            module.merged = not module.merged
    return True, trainer.config.train.train_policy.kl_beta
