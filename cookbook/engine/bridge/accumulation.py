"""Mini-batches of one SFT step that share their gathered weights, and sum their gradients where they stand.

Why: cosmos-rl 0.4.7 lets FSDP gather the weights, and reduce and shard the gradients, for every mini-batch of a step
(policy/trainer/llm_trainer/sft_trainer.py, step_training), although weights change once a step. On one GPU nothing is
reduced at all: it is 800 casts and 800 copies of the weights, each way, for nothing. Gradients are summed in float32 as
before. Used by `cookbook.engine.bridge`.
"""

from functools import wraps

from torch.distributed.fsdp import FSDPModule


def install_accumulation() -> str:
    """Put it in place. Returns what it did."""
    from cosmos_rl.policy.trainer.llm_trainer.sft_trainer import SFTTrainer

    if not hasattr(SFTTrainer.step_training, "bare"):
        SFTTrainer.step_training = _once_a_step(SFTTrainer.step_training)
    return "once a step"


def _once_a_step(bare):
    """Returns the trainer's `step_training`, whose last mini-batch alone shards weights and reduces gradients.

    Weights stay whole with `fsdp_reshard_after_forward = "never"`, which has paid for the memory. Gradients stay whole
    on one GPU, where that costs none.
    """

    @wraps(bare)
    def step_training(self, global_batch, *args, **kwargs):
        train, dims = self.config.train, self.parallel_dims
        whole, alone = train.fsdp_reshard_after_forward == "never", dims.world_size == 1
        if dims.pp_enabled or not (whole or alone):
            return bare(self, global_batch, *args, **kwargs)
        size = 1 if self.enable_dp_load_balancing else train.train_policy.mini_batch
        left = iter(range(-(-self.data_packer.batch_size(global_batch) // size) - 1, -1, -1))
        parts = [part for part in self.model.modules() if isinstance(part, FSDPModule)]

        def begin(*_) -> None:
            last = next(left) == 0
            for part in parts:
                part.set_requires_gradient_sync(last or not alone, recurse=False)
                part.set_reshard_after_backward(last or not whole, recurse=False)

        hook = self.model.register_forward_pre_hook(begin)
        try:
            return bare(self, global_batch, *args, **kwargs)
        finally:
            hook.remove()

    step_training.bare = bare
    return step_training
