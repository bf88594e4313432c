"""What is mended in the installed engine, in its own processes: `bridge.install()` at the top of every loader file.

mending       all of it, once; the names of exported weights, the network, the log
attention     PyTorch's attention, where flash-attn is missing
stock         transformers' Qwen3-VL as fast as the engine's own models
layout        mini-batches of SFT laid out before the GPU sees them
packing       gradients through packed completions
accumulation  weights gathered once a step, not once a mini-batch
moments       an optimizer of 8 bits that keeps up with the GPU
sharing       a prompt once for all its completions
lora          frozen weights of 16 bits, and a reference without a second copy
video_reader  PyAV, and each clip decoded once
rollout       the rollout backend "transformers"
"""

from cookbook.engine.bridge.mending import install  # noqa: F401
