"""Weights that FSDP gathers and gradients that it reduces: once for all mini-batches of an SFT step, and all of them.

Why: cosmos-rl 0.4.7 lets FSDP gather the weights, and reduce and shard the gradients, for every mini-batch of a step
(policy/trainer/llm_trainer/sft_trainer.py, step_training), although weights change once a step. On one GPU nothing is
reduced at all: it is 800 casts and 800 copies of the weights, each way, for nothing. Gradients are summed in float32 as
before. And where the head of its own model is tied (Qwen2.5-VL-3B, the tiny base), it gathers the embeddings as if the
gradient were the same on each GPU (policy/model/qwen2_5_vl/__init__.py:521): of what the head learned from the samples
of the others, nothing came. Used by `cookbook.engine.bridge`.
"""

from functools import partial, wraps

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, Replicate


def install_accumulation() -> str:
    """Put it in place. Returns what it did."""
    from cosmos_rl.policy.model.qwen2_5_vl import Qwen2_5_VLModel
    from cosmos_rl.policy.trainer.llm_trainer.sft_trainer import SFTTrainer

    if not hasattr(SFTTrainer.step_training, "bare"):
        SFTTrainer.step_training = _once_a_step(SFTTrainer.step_training)
        Qwen2_5_VLModel.__init__ = _with_a_head(Qwen2_5_VLModel.__init__)
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


def _with_a_head(bare):
    """Returns the language model's `__init__`, whose tied head is ours."""

    @wraps(bare)
    def init(model, *args, **kwargs) -> None:
        bare(model, *args, **kwargs)
        if model.tie_embed_tokens:
            model.tie_embed_tokens, model.lm_head = False, partial(tied_head, model.embed_tokens)

    return init


def tied_head(embeddings: nn.Embedding, hidden: Tensor) -> Tensor:
    """Returns the logits of hidden states; the gradient of the embeddings is the mean over the GPUs that share them."""
    weight = embeddings.weight
    if isinstance(weight, DTensor):
        names = weight.device_mesh.mesh_dim_names or ("",) * weight.device_mesh.ndim
        weight = weight.full_tensor(grad_placements=[Replicate() if n == "tp" else Partial("avg") for n in names])
    hidden = hidden.full_tensor() if isinstance(hidden, DTensor) else hidden
    return hidden @ weight.to(hidden.dtype).t()  # what was gathered has the type of what is kept
