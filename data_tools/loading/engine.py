"""What all loader files share: the dataset that cosmos-rl takes, and the start of each of its processes.

Why: the engine starts a loader file in every one of its roles, with arguments of its own. A loader file is a
`load(config)` and a call of `serve`; how a sample becomes what the model sees is decided here, once.

    cosmos-rl --config X.toml data_tools/llava_sft.py
    python data_tools/llava_sft.py --config X.toml --check      # looks at the data; needs no GPU and no cosmos_rl
"""

import argparse
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from cookbook.config import Config, ConfigError
from cookbook.data.samples import DataError, Sample, require_plain, require_targets
from cookbook.engine import bridge, records
from cookbook.engine.reward_calls import EngineReward, reference_text
from cookbook.training.rewards import are_ours, reward_weights
from data_tools.loading.samples import contract, gives_samples, require_step

Load = Callable[[Config], dict[str, list[Sample]]]


class EngineDataset(Dataset):
    """Samples as cosmos-rl's Qwen2_5_VLM_DataPacker takes them: whole conversations for SFT, prompts for GRPO."""

    def __init__(self, samples: Sequence[Sample], config: Config, for_our_rewards: bool = False) -> None:
        """`for_our_rewards`: whether references are what cookbook.engine.reward_calls.EngineReward takes.

        Raises DataError where SFT has no answer to learn from, a text would steer the model, or the engine could not
        batch the samples.
        """
        self.samples, self.kind, self.for_our_rewards = list(samples), config.kind, for_our_rewards
        self.contract = contract(config)
        if self.kind == "sft":
            require_targets(self.samples)
        require_plain(self.samples)
        media = {tuple(sorted({kind for kind, _ in r.media()})) for r in self.samples}
        if len(media) > 1 and config["train.train_policy.mini_batch"] > 1:  # its collate function asserts otherwise
            kinds = ", ".join(" and ".join(kinds) or "text only" for kinds in sorted(media))
            how = "train them apart, or set mini_batch = 1"
            raise DataError(f"samples show {kinds}; the engine cannot mix them: {how}")

    def setup(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Called by the engine with its own configuration. Raises DataError where that is for another training."""
        if (kind := config.train.train_policy.type) != self.kind:
            raise DataError(f"the dataset was made for {self.kind}, and the engine runs {kind}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Returns the messages: the user's as parts with the vision limits on each clip, the others as plain text."""
        sample = self.samples[index]
        turns = self.contract.conversation(sample.messages if self.kind == "sft" else sample.prompt)
        texts = ["".join(part.get("text", "") for part in turn["content"]) for turn in turns]
        # the packer takes an assistant's turn in no other form
        return [t if t["role"] == "user" else {"role": t["role"], "content": words} for t, words in zip(turns, texts)]

    def get_reference_answer(self, index: int) -> str:
        """Returns what rewards compare with: the reference answer, else the written answer, else "".

        For our own rewards (`serve`) it is JSON of answer, options, written answer and tolerance: `reference_text`.
        """
        sample = self.samples[index]
        if self.for_our_rewards:
            return reference_text(sample)
        return sample.answer if sample.answer is not None else sample.target or ""


def serve(load: Load, reward_fns: Sequence[Callable] | None = None) -> None:
    """Run one process of the engine, or with --check print what the data looks like and end.

    `reward_fns` are functions of (completion, reference). Without them the TOML's `reward_function` says what counts:
    the functions of cookbook.training.rewards where it names only those, else the engine's own.
    """
    about = inspect.getmodule(load).__doc__
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="the TOML file of the training")
    parser.add_argument("--check", action="store_true", help="print counts and the first sample, and end")
    args, _ = parser.parse_known_args()  # the engine adds arguments of its own
    try:
        config = Config.load(Path(args.config).resolve())
        splits = cache(lambda: gives_samples(load, inspect.getfile(load))(config))
        ours = reward_fns is None and are_ours(config)
        if ours:
            reward_fns = [EngineReward(reward_weights(config), contract(config))]

        def dataset(split: str) -> EngineDataset:
            return EngineDataset(splits()[split], config, ours)

        if args.check:
            require_step(config, splits())
            print(preview(splits(), config))
            return
        if os.environ.get("COSMOS_ROLE") == "Controller":  # the one role whose end the launcher notices
            require_step(config, splits())
            dataset("train"), dataset("validation")
    except (DataError, ConfigError) as error:
        parser.exit(1, f"error: {error}\n")  # the word by which it is found in the log

    from cosmos_rl.launcher.worker_entry import main as launch_worker  # 13 seconds: only where the engine runs

    bridge.install()
    launch_worker(
        dataset=lambda _: dataset("train"),
        val_dataset=(lambda _: dataset("validation")) if config["validation.enable"] else None,
        reward_fns=list(reward_fns) if reward_fns else None,
        # held-out prompts are measured as the local engine does: by how many answers are right, whatever is trained on
        val_reward_fns=[EngineReward({"single_choice": 1.0}, contract(config), keeps=False)] if ours else None,
        custom_logger_fns=[partial(records.log_metrics, held_out="val/accuracy") if ours else records.log_metrics],
    )


def preview(splits: Mapping[str, Sequence[Sample]], config: Config) -> str:
    """Returns the number of samples of each split, and the first sample as the engine gets it."""
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in splits.items())
    first = EngineDataset(splits["train"], config)[0]
    require_plain(splits["validation"])
    return f"{config.kind}: {counts}\n{json.dumps(first, indent=1, ensure_ascii=False)}"
