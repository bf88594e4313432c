"""Samples from a training configuration: which dataset, which splits, what is held out, what the model sees of a clip.

Why: every loader file and both engines must take the same samples from the same TOML.

    [train.train_policy.dataset]      name: a folder, or a dataset of the hub; subset; split; test_size
    [validation.dataset]              the same, where validation has a dataset of its own
    [custom]                          contract: the file of prompt and vision limits; subset = "[:100]"; passport;
                                      loader: the file that reads; test_share: held out where there is no test split;
                                      accept_left_out: the share of samples that may be lost

    load(Config.load("configs/sft.toml"), "hf_sft")["train"]
"""

import importlib.util
import logging
import math
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from cookbook.config import Config
from cookbook.config.custom import check_custom
from cookbook.config.models import family_of
from cookbook.config.schema import BATCH, GENERATIONS, MINI
from cookbook.data.answers import choices_of, choose, lenient
from cookbook.data.contract import Contract
from cookbook.data.samples import DataError, Sample
from cookbook.runs import ROOT, named
from data_tools import formats
from data_tools.formats import hub
from data_tools.formats.source import PASSPORT, Problems, shown
from data_tools.loading.splits import hold_out, subset
from data_tools.passport import read_quarantine

log = logging.getLogger(__name__)

Splits = dict[str, list[Sample]]  # "train" and "validation", and "test" where the dataset has one

TRAIN, VALIDATION = "train.train_policy.dataset", "validation.dataset"
LOADERS = {  # the loader file of each format
    "av_folder": "data_tools/avha_sft_single_caption.py",
    "hf_sft": "data_tools/cosmos_sft.py",
    "hf_rl": "data_tools/cosmos_grpo.py",
    "llava": "data_tools/llava_sft.py",
    "saved": "data_tools/saved_sft.py",
    "samples_jsonl": "data_tools/samples_sft.py",
}
SPLIT = re.compile(r"(\w*)(\[.*\])?")
TEST_SEED = 1  # validation draws with 0
LEFT_OUT = 0.05  # the share of the samples that may be left out where `accept_left_out` states no other
HELD_OUT = 0.1  # the engine's own share where validation is on and nothing says how much


def custom(config: Config, **more: type) -> dict[str, Any]:
    """Returns the stated keys of [custom]; `more` are those of one loader, with their types: its OPTIONS.

    Raises DataError for any other key, and for a value of another type.
    """
    if wrong := next(check_custom(config, more), None):
        raise DataError(f"{config.name}:{wrong}")
    return config.table("custom")


def media(config: Config) -> Path | None:
    """Returns the folder of the clips, where [custom] states one: not the dataset's own."""
    stated = config.table("custom").get("media")
    return ROOT / stated if stated else None


def contract(config: Config) -> Contract:
    """Returns the contract that `custom.contract` names, its limits in the patches of the base. Raises DataError."""
    name = config.table("custom").get("contract")
    if not name:
        words = 'write contract = "configs/prompts/captions.yaml", or your own, below [custom]: all steps read it'
        raise DataError(f"{config.name}: custom.contract is not stated; {words}")
    try:
        return Contract.load(ROOT / name).for_base(family_of(config["policy.model_name_or_path"]))
    except (OSError, ValueError) as error:
        raise DataError(f"{config.name}: custom.contract cannot be read: {error}") from None


def loader(path: str | Path) -> ModuleType:
    """Returns a loader file: its function `load(config)` gives what `cosmos-rl --config X.toml FILE` trains on.

    Raises DataError where the file is missing, does not run or has no such function, and `load` where it does not give
    samples by split.
    """
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None:
        raise DataError(f"{path}: no such loader file; those of the project are in data_tools/")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        own = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
        line, why = getattr(error, "lineno", None) or (own or [1])[-1], getattr(error, "msg", error)
        raise DataError(f"{path}:{line}: does not run, so it loads nothing: {type(error).__name__}: {why}") from None
    if not callable(getattr(module, "load", None)):
        raise DataError(f"{path}: has no function load(config); see data_tools/llava_sft.py")
    module.load = gives_samples(module.load, path)
    return module


def gives_samples(load: Callable[[Config], Splits], file: str | Path) -> Callable[[Config], Splits]:
    """Returns the `load` of a loader file; it raises DataError where that gives anything else than samples by split."""

    @wraps(load)
    def checked(config: Config) -> Splits:
        splits = load(config)
        parts = splits if isinstance(splits, dict) else {}
        kinds = {type(row) for rows in parts.values() for row in (rows if isinstance(rows, (list, tuple)) else [rows])}
        if not parts.keys() >= {"train", "validation"} or kinds - {Sample}:
            wanted = 'it must give {"train": [Sample, …], "validation": […]}; see data_tools/llava_sft.py'
            raise DataError(f"{file}: load(config) gives {shown(reprlib.repr(splits))}; {wanted}")
        return splits

    return checked


def loader_for(data: str, format: str = "") -> str:
    """Returns the loader file for a folder, a file or a dataset of the hub; the format is found out where it is empty.

    Of a folder with splits in it, `train` tells. Raises DataError for a format that is not recognised, or unknown.
    """
    if format and format not in LOADERS:
        raise DataError(f"unknown format {format!r}; the formats are {', '.join(LOADERS)}")
    try:
        return LOADERS[format or formats.detect(ROOT / data if (ROOT / data).exists() else data)]
    except DataError:
        if not (ROOT / data / "train").is_dir():
            raise
        return LOADERS[formats.detect(ROOT / data / "train")]


def load(config: Config, format: str, **options: Any) -> Splits:
    """Returns {"train": …, "validation": …} as the configuration names them; `options` go to the format's `read`.

    A relative path counts from the project's root. Of a folder with `train`, `validation`, `test` in it (folders, or
    files such as `train.jsonl` and `val.jsonl`) those are read;
    `split = "train[:100]"` names others, and takes a slice. Where validation has no data of its own, `test_size`
    samples, or that share, are held out: whole clips, and the same ones whatever the seed of the training is. So is
    `custom.test_share` of data without a test split.
    Rows that cannot be used are counted in a warning. Raises DataError where they are too many, or all.
    """
    problems: Problems = []
    train = _read(config, TRAIN, format, problems, options)
    test = _own(config, format, "test", problems, options) or []
    if (share := config.table("custom").get("test_share")) and not test:
        train, test = held_out(config, train, float(share), "custom.test_share", TEST_SEED)
    if config[f"{VALIDATION}.name"]:
        validation = _read(config, VALIDATION, format, problems, options)
    elif (validation := _own(config, format, "validation", problems, options)) is None:
        usual, size = HELD_OUT if config["validation.enable"] else 0, config[f"{TRAIN}.test_size"]
        train, validation = held_out(config, train, usual if size is None else size)
    _tell_unread(config, format)
    train, validation, test = (list(map(with_options, part)) for part in (train, validation, test))
    return finish(config, _place(config, TRAIN, format), train, validation, problems, test)


def with_options(sample: Sample) -> Sample:
    """Returns a sample whose question lists choices, and whose answer names one, with both as fields; any other as is.

    Most data have them in the words alone; rewards and evaluation read choices only where they are stated.
    """
    texts = choices_of(sample.question)[1]
    said = (lenient(sample.target or "") or "") if sample.answer is None else sample.answer
    right = None if sample.options else choose(said, tuple(texts), texts)
    return sample if right is None else replace(sample, answer=right, options=tuple(texts))


def finish(
    config: Config,
    place: Path | str,
    train: list[Sample],
    validation: list[Sample],
    problems: Problems = (),
    test: Sequence[Sample] = (),
) -> Splits:
    """Returns the splits without what the passport has in quarantine, of train the stated subset.

    `place` is the dataset's folder or name. Raises DataError where there is nothing to train on, or where more is lost
    than `custom.accept_left_out` allows: rows that cannot be read, and those in quarantine.
    """
    whole = {"train": train, "validation": validation} | ({"test": test} if test else {})
    bad: Problems = []
    splits = {name: _without_quarantine(config, place, name, found, bad) for name, found in whole.items()}
    lost, kept = len(problems) + len(bad), sum(map(len, splits.values()))
    splits["train"] = subset(splits["train"], config.table("custom").get("subset", "[:]"))
    told = "; ".join(f"{name}: {reason}" for name, reason in [*problems, *bad][:3])
    if not splits["train"]:
        raise DataError(f"{config.name}: {place} holds nothing to train on. {told}".rstrip())
    share, accepted = lost / (lost + kept), config.table("custom").get("accept_left_out", LEFT_OUT)
    if problems:
        log.warning("%d rows cannot be used, such as %s", len(problems), told)
    if share > accepted:
        helps = f"mend them, or write accept_left_out = {math.ceil(100 * share) / 100} below [custom]"
        what = f"{lost} of {lost + kept} samples ({share:.1%}) would be left out, more than {accepted:.1%}"
        raise DataError(f"{config.name}: {what}: {told}; {helps}")
    return splits


def held_out(
    config: Config, samples: list[Sample], size: int | float | None, key: str = f"{TRAIN}.test_size", seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Returns (kept, held out) by whole clips. Raises DataError where more is held out than kept to train on."""
    kept, held = hold_out(samples, size or 0, seed) if samples else ([], [])
    if len(held) > len(kept):
        what = f"{config.name}: {key} = {size} holds out {len(held)} of {len(samples)} samples, and leaves {len(kept)}"
        raise DataError(f"{what} to train on; state a smaller one, or keep validation data in a folder of their own")
    return kept, held


def require_step(config: Config, splits: Splits) -> None:
    """Raises DataError where `custom.clips`, or what is held out, leaves too few samples for one step."""
    per_step = config[BATCH] // (config[GENERATIONS] if config.kind == "grpo" else 1)
    kept, held = len(splits["train"]), sum(map(len, splits.values())) - len(splits["train"])
    turn = "take more of custom.clips" if config.table("custom").get("clips", -1) > 0 else f"lower {TRAIN}.test_size"
    if kept < per_step <= kept + held:
        what = f"{config.name}: {kept} samples are left to train on, {held} are held out, and one step takes {per_step}"
        raise DataError(f"{what}; {turn}, or lower {BATCH} and {MINI}")


def _without_quarantine(
    config: Config, place: Path | str, split: str, samples: list[Sample], bad: Problems
) -> list[Sample]:
    """Returns the samples that the dataset's passport does not have in quarantine; those go into `bad`, with why.

    A passport that names the split speaks for it; what it says of a folder without splits holds for all. "" is none.
    """
    stated = config.table("custom").get("passport")
    path = ROOT / stated if stated else Path(place) / PASSPORT
    if stated == "" or (not stated and not path.is_file()):
        return samples
    out = read_quarantine(path, {split: samples})
    by_split = bool(out.keys() & {"validation", "test"})
    why = out.get(split, {}) if by_split else {key: told for rows in out.values() for key, told in rows.items()}
    kept = [sample for sample in samples if sample.id not in why]
    bad += [(sample.id, why[sample.id]) for sample in samples if sample.id in why]
    if len(kept) < len(samples):
        left = len(samples) - len(kept)
        words = "%s: %d of %d samples (%.1f %%) are left out by %s"
        log.warning(words, split, left, len(samples), 100 * left / len(samples), named(path))
    return kept


def _read(config: Config, table: str, format: str, problems: Problems, options: dict[str, Any]) -> list[Sample]:
    wanted, found = _splits(config, table), []
    for name, part in wanted:
        samples = _read_home(*_home(config, table, format, name), format, problems, options)
        if len(wanted) > 1 and format not in formats.BY_FILE:  # ids need only differ within one dataset
            known = next((split for split, names in formats.SPLITS.items() if name.lower() in names), name)
            samples = _without_quarantine(config, _place(config, table, format), known, samples, problems)
            samples = [replace(sample, id=f"{name}-{sample.id}") for sample in samples]
        found += subset(samples, part)
    return found


def _read_home(
    home: Path | str, more: dict[str, Any], format: str, problems: Problems, options: dict[str, Any]
) -> list[Sample]:
    if format in formats.BY_FILE and not options.get("clips"):
        hub.unpack_clips(home, more.get("subset"))
    return formats.read(home, format, problems, **more, **options)


def _place(config: Config, table: str, format: str) -> Path | str:
    """Returns the dataset's folder, or its name on the hub."""
    name = config[f"{table}.name"]
    if not name:
        raise DataError(f"{config.name}: {table}.name is empty; name the folder of your dataset")
    local = ROOT / name
    return name if format in formats.BY_FILE and not local.exists() and hub.is_hub_name(name) else local


def _splits(config: Config, table: str) -> list[tuple[str, str]]:
    """Returns (name, slice) of the stated splits; one without a name where none is stated."""
    stated = config[f"{table}.split"] or ""
    matches = [(spec, SPLIT.fullmatch(spec)) for spec in ([stated] if isinstance(stated, str) else stated)]
    if bad := [spec for spec, match in matches if match is None]:
        raise DataError(f"{config.name}: {table}.split is {bad[0]!r}; write train or train[:100]")
    return [(match[1], match[2] or "[:]") for _, match in matches]


Home = tuple[Path | str, dict[str, Any]]  # where rows lie, and what `read` wants besides


def _split_home(config: Config, table: str, format: str, split: str) -> Home | None:
    which = config[f"{table}.subset"] or ""
    found = formats.home(_place(config, table, format), split, format, which)
    return found and (found[0], found[1] | ({"subset": which} if format in formats.BY_FILE else {}))


def _home(config: Config, table: str, format: str, split: str) -> Home:
    """Returns where a split lies; without a name, that of `train` or of validation, else all of the dataset."""
    for name in [split] if split else ["train"] if table == TRAIN else ["validation", "train"]:
        if found := _split_home(config, table, format, name):
            return found
    place = _place(config, table, format)
    if format in formats.BY_FILE:  # whose splits have any name
        return place, {"subset": config[f"{table}.subset"] or ""} | ({"split": split} if split else {})
    if split:
        raise DataError(f"{place / split}: no such split; a local dataset keeps each in a folder or file of its own")
    return place, {}


def _own(config: Config, format: str, split: str, problems: Problems, options: dict[str, Any]) -> list[Sample] | None:
    """Returns the samples of a split beside `train`; None where there is none, or it is trained on.

    Raises DataError where none of them can be used: others would take their place, and nobody would know.
    """
    train, found = (_split_home(config, TRAIN, format, name) for name in ("train", split))
    if not (train and found) or found in [_home(config, TRAIN, format, name) for name, _ in _splits(config, TRAIN)]:
        return None
    if not (samples := _read_home(*found, format, bad := [], options)):
        told = "".join(f": {name}: {why}" for name, why in bad[:1])
        raise DataError(
            f"{found[0]}: is the split {split}, and no sample of it can be used{told}; mend it or remove it"
        )
    problems += bad
    return samples


def _tell_unread(config: Config, format: str) -> None:
    """Warn of files with rows beside those of the splits: `test_2024.jsonl` is none of them."""
    train = _split_home(config, TRAIN, format, "train")
    if format in formats.ONE_FILE and train and train[0].is_file():
        homes = [_split_home(config, TRAIN, format, split) for split in formats.SPLITS]
        read = {home[0] for home in homes if home}
        if left := [file.name for file in hub.data_files(train[0].parent) if file not in read]:
            log.warning("%s: not read, for no split has such a name: %s", train[0].parent, shown(", ".join(left)))
