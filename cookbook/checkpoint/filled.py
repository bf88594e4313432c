"""Load a checkpoint's model and processor, each of them whole and fitting the other, or say in one line what is wrong.

Why: transformers only warns where it fills weights with random numbers, takes a tokenizer of another vocabulary, and
finds out about a chat template without a clip's place when the first sample is read. Loading, `verify`, `merge` and
inference all load here. Nothing that a checkpoint brings is run: no code of its own, no pickle.

    processor, model = load_processor(folder), load_model(folder, dtype=torch.bfloat16)
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, ProcessorMixin
from transformers.utils import logging as transformers_logging

from cookbook.checkpoint.shards import CheckpointError, few, read_shards
from cookbook.data.architecture import of_config
from cookbook.runs import named

MADE_UP = {"missing": "missing_keys", "unexpected": "unexpected_keys", "of another shape": "mismatched_keys"}
PIXELS = ("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize")
WORD = "Seen?"
TURN = {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": WORD}]}


@contextmanager
def explained(folder: Path, what: str) -> Iterator[None]:
    """Raise CheckpointError, in one line, for whatever a library raises of a damaged file; it warns of nothing."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{named(folder)}: {what}: {words}") from None
    finally:
        transformers_logging.set_verbosity(level)


def load_model(folder: Path, **how):
    """Returns the model that config.json names, every weight from the files; `how` is for transformers.

    Raises CheckpointError where weights are missing, unexpected, or of another shape; a tied lm_head is none of these.
    """
    strictly = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    with explained(folder, "transformers cannot load it"):
        model, told = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **strictly, **how
        )
    made_up = "transformers would fill them with random numbers; copy or export the checkpoint again"
    require_filled(told, folder, made_up)
    # of a lm_head that config.json ties, transformers leaves the files' own out without a word
    head, shard = model.lm_head.weight, read_shards(folder)[0].get("lm_head.weight")
    if shard and head is model.get_input_embeddings().weight and not head.is_meta:
        with safe_open(shard, "pt") as opened:
            same = torch.equal(opened.get_tensor("lm_head.weight").to(head), head)
        if not same:
            what = "lm_head.weight is another than the embeddings, but config.json ties them (tie_word_embeddings)"
            raise CheckpointError(f"{named(folder)}: {what}; copy config.json from the base")
    return model


def require_filled(told: Mapping[str, Collection], folder: Path, helps: str) -> None:
    """Raises CheckpointError where weights were not all filled: `told` is the `loading_info` of transformers."""
    if wrong := [f"{len(told[k])} {word}: {few(set(map(str, told[k])))}" for word, k in MADE_UP.items() if told[k]]:
        raise CheckpointError(f"{named(folder)}: {'; '.join(wrong)}. {helps}")


def require_finite(model, folder: Path) -> None:
    """Raises CheckpointError where a weight is no number."""
    sums = {name: weight.detach().sum(dtype=torch.float32) for name, weight in model.named_parameters()}  # one pass
    if bad := [name for name, total in sums.items() if not total.isfinite()]:
        raise CheckpointError(f"{named(folder)}: NaN or infinity in {few(bad)}; take an earlier step of its run")


def load_processor(folder: Path) -> ProcessorMixin:
    """Returns the processor of a checkpoint. Raises CheckpointError where it does not load, or fit its config.json."""
    with explained(folder, "the processor does not load"):
        # the fast image processor needs no notice
        processor = AutoProcessor.from_pretrained(folder, use_fast=True, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        problem = next(_misfits(processor, config, folder), "")
    if problem:
        raise CheckpointError(f"{named(folder)}: {problem}; copy tokenizer and processor files from the base")
    return processor


def other_texts(processor, base) -> list[str]:
    """Returns in what a processor differs from its base's: tokens, their rules, how pixels become numbers, template."""
    own, before = processor.tokenizer, base.tokenizer
    changed = {word for word, _ in before.get_vocab().items() ^ own.get_vocab().items()}
    found = [f"{len(changed)} tokens, such as {few(changed)!r}"] if changed else []
    if not changed and before.backend_tokenizer.to_str() != own.backend_tokenizer.to_str():
        found = ["the tokenizer's rules"]
    for kind in ("image", "video"):
        one, other = (getattr(each, f"{kind}_processor") for each in (processor, base))
        found += [f"the {kind}s' {key}" for key in PIXELS if getattr(one, key, None) != getattr(other, key, None)]
    templates = {each.chat_template or each.tokenizer.chat_template for each in (processor, base)}
    return found + ["the chat template"] * (len(templates) > 1)


def _misfits(processor, config, folder: Path) -> Iterator[str]:
    """Yields where tokenizer, chat template and image processor are not those of this model."""
    if (made := type(processor).__name__) != (wanted := of_config(config).processor):
        yield f"its files make a {made}, not a {wanted}"
        return
    tokenizer, text, rows = processor.tokenizer, config.text_config, config.text_config.vocab_size
    most = max([len(tokenizer) - 1, *tokenizer.added_tokens_decoder])
    if most >= rows:
        yield f"the tokenizer counts to {most}, but the model embeds {rows} tokens"
    if tokenizer.pad_token_id is None:
        yield "the tokenizer names no pad_token"
    for kind in ("image", "video"):
        own, said = getattr(processor, f"{kind}_token_id"), getattr(config, f"{kind}_token_id")
        if own != said:
            yield f"the tokenizer's {kind} token is {own}, but config.json says {said}"
    sections = (text.rope_scaling or {}).get("mrope_section") or ()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if sum(sections) != (pairs := head // 2):
        yield f"config.json's rope_scaling.mrope_section {sections} is not made of the {pairs} pairs that a head has"
    file = folder / "generation_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = said.get("eos_token_id", tokenizer.eos_token_id)
    if tokenizer.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
        yield f"the tokenizer ends a turn with {tokenizer.eos_token_id}, but generation_config.json says {ends}"
    known = tokenizer.get_vocab()
    for file in filter(Path.is_file, (folder / "vocab.json", folder / "added_tokens.json")):
        written = json.loads(file.read_text(encoding="utf-8"))
        if odd := {word for word, number in written.items() if known.get(word) != number}:
            yield f"tokenizer.json and {file.name} number {len(odd)} tokens differently, such as {few(odd)!r}"
    if not (processor.chat_template or tokenizer.chat_template):
        yield "there is no chat template"
        return
    words = processor.apply_chat_template([TURN], tokenize=False, add_generation_prompt=True)
    if lost := [part for part in (processor.video_token, processor.image_token, WORD) if words.count(part) != 1]:
        yield f"the chat template loses or repeats {few(lost)}"
    sizes = {"merge_size": "spatial_merge_size"} | {name: name for name in ("patch_size", "temporal_patch_size")}
    for kind, part in (("image", processor.image_processor), ("video", processor.video_processor)):
        for name, key in sizes.items():
            if (own := getattr(part, name)) != (said := getattr(config.vision_config, key)):
                yield f"the {kind} processor's {name} is {own}, the model's {said}"
