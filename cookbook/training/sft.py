"""Supervised fine-tuning, in one process: the loop that `sft.ipynb` explains.

Why: to see what SFT does, read it. The keys are those of cosmos-rl.

    for every step:  batch → loss on the assistant's tokens → gradients → AdamW
    now and then:    the same loss on clips that are not trained on → an export
    a severe alarm:  an export, and the end
"""

from pathlib import Path

import torch
from torch.nn import functional as F

from cookbook.config import Config, require
from cookbook.data.encoder import IGNORE, Encoder
from cookbook.data.samples import Sample
from cookbook.display.progress import progress
from cookbook.model.generation import to
from cookbook.runs import Run
from cookbook.training.checkpointer import Checkpointer
from cookbook.training.optimizer import Optimizer, batches


def token_losses(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the cross-entropy of each assistant token: a vector as long as there are labels that count."""
    batch = dict(batch)
    labels = batch.pop("labels")[:, 1:]  # the token at i is predicted from those before it
    logits = model(**batch, use_cache=False).logits[:, :-1]
    counts = labels != IGNORE
    return F.cross_entropy(logits[counts].float(), labels[counts], reduction="none")


@torch.no_grad()
def validation_loss(model, encoder: Encoder, samples: list[Sample], size: int) -> float:
    """Returns the mean loss per assistant token over all samples."""
    model.eval()
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    losses = torch.cat([token_losses(model, to(model, encoder.training_batch(b))) for b in batches])
    model.train()
    return losses.mean().item()


def plan_steps(config: Config, samples: list[Sample]) -> int:
    """Returns the number of steps: whole batches per epoch, times epochs, at most `train.max_num_steps`.

    Raises ConfigError where the configuration and the data do not fit together, before any work starts.
    """
    require(config, kind="sft", gpus=1, samples=len(samples))
    steps = len(samples) // config["train.train_batch_per_replica"] * config["train.epoch"]
    return min(steps, config["train.max_num_steps"] or steps)


def sft(
    config: Config,
    train: list[Sample],
    validation: list[Sample],
    encoder: Encoder,
    model,
    run: Run,
    *,
    stop_on_alarm: bool = True,
) -> Path | None:
    """Train the model on the samples' targets. Returns the last export, None where none is wanted.

    Leaves metrics.jsonl, log.txt and `safetensors/step_N` in the run's folder.
    Goes on where the folder holds the state of a stopped run (`Checkpointer`). Raises ConfigError before the first step
    where configuration and data do not fit, and TrainingStopped, after an export, where a severe alarm of
    cookbook.training.alarms goes off and `stop_on_alarm` is set.
    """
    steps = plan_steps(config, train)
    size, mini = config["train.train_batch_per_replica"], config["train.train_policy.mini_batch"]
    plan = batches(train, size, config["train.epoch"], config["train.train_policy.dataloader_seed"])[:steps]
    optimizer = Optimizer(model, config, steps)
    keeper = Checkpointer(run, config, model, encoder, optimizer, steps, stop_on_alarm=stop_on_alarm)
    check_every = config["validation.freq"] if config["validation.enable"] else 0
    run.log(f"SFT: {len(train)} samples, {steps} steps of {size}")
    model.train()

    for step, batch in enumerate(bar := progress(plan, "SFT", keeper.done), start=keeper.done + 1):
        # ---- loss: the mean over all assistant tokens of the batch, in mini-batches that fit the memory
        batch = sorted(batch, key=encoder.length)  # like lengths together: padding costs as much as words
        parts = [to(model, encoder.training_batch(batch[i : i + mini])) for i in range(0, size, mini)]
        tokens = sum((part["labels"] != IGNORE).sum().item() for part in parts)
        loss = 0.0
        for part in parts:
            share = token_losses(model, part).sum() / tokens
            share.backward()
            loss += share.item()

        # ---- update
        norm = optimizer.step()
        values = {"train/loss_avg": loss, "optimizer/grad_norm": norm, "optimizer/lr": optimizer.rate}

        # ---- look at clips that are not trained on
        if check_every and validation and (step % check_every == 0 or step == steps):
            values["val/avg_loss"] = validation_loss(model, encoder, validation, 2 * mini)
        run.log_metrics(step, **values)
        bar.set(loss=loss)

        # ---- keep what is there; end where it cannot get better
        keeper.keep(step, values)

    return keeper.end()
