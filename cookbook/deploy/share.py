"""Share a checkpoint: a model card from what its runs have left, and an upload that can be looked at before.

Why: whoever takes a model must know what it was made of, how it must be asked, how sure its score is and what it cannot
do; all of that stands in lineage, contract and evaluation. The card keeps the base's licence. Of the folder go only
weights in safetensors and the files that load them: no pickle, no state of a training, no secret, no path of a machine.

    python -m cookbook.deploy card runs/tutorial/deploy/int8 --repo me/road --licence apache-2.0
    python -m cookbook.deploy push runs/tutorial/deploy/int8 --repo me/road              # only lists; --really sends
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import HFValidationError, filter_repo_objects, validate_repo_id

from cookbook.checkpoint import CheckpointError, on_disk
from cookbook.checkpoint.lineage import lineage
from cookbook.data.contract import Contract
from cookbook.deploy.quantise import form_of
from cookbook.deploy.serve import serve_line
from cookbook.display.tables import Table
from cookbook.evaluation.findings import from_to
from cookbook.runs import MANIFEST, ROOT, named, write_whole

CARD, TASK = "README.md", "video-text-to-text"
SENT = ["*.safetensors", "*.json", "*.jinja", "merges.txt", CARD, "contract.yaml", "LICENSE*", "NOTICE*"]
KEPT_BACK = [MANIFEST, "pretraining.json"]
WORDS = {CARD, "contract.yaml", "config.json", "generation_config.json", "tokenizer_config.json",
         "preprocessor_config.json", "model.safetensors.index.json"}  # fmt: skip
SECRET = re.compile(
    r"\b(?:hf_|nvapi-|sk-|ghp_|github_pat_)[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
)
OWN_PATH = re.compile(r"(?<![\w:./<])/(?:home|root|Users|mnt|tmp|scratch|workspace|data)/[\w.-]+")
LICENCE = ("license", "license_name", "license_link")
WEAK = 0.05  # share without a readable answer: above, it is named


def licence_of(base: str, stated: str = "") -> dict[str, str]:
    """Returns the card's licence: that of the base's own card, or `stated` where it has none.

    Raises ValueError where there is neither, or where they differ.
    """
    folder = on_disk(base)
    said = (metadata_load(folder / CARD) if folder and (folder / CARD).is_file() else None) or {}
    own = {key: said[key] for key in LICENCE if key in said}
    if own and stated and stated != own.get("license"):
        raise ValueError(f"--licence {stated}: the base is under {own.get('license')}, and so is what is made of it")
    if not own and not stated:
        raise ValueError(f"{base}: has no card that names its licence; name it with --licence")
    return own or {"license": stated}


def model_card(
    path: str | Path, repo: str, contract: Contract, comparison: Mapping[str, Any] | None = None, model: str = "",
    licence: str = "",
) -> ModelCard:  # fmt: skip
    """Returns the card of a checkpoint: lineage, contract, evaluation with intervals, and what it is not good at.

    `comparison` is what evaluation.ipynb has left (comparison.json) or `Forms.summary`, `model` its name there. Raises
    ValueError for a licence that is not known, a name that no repository can have, or a score that is not there;
    CheckpointError for no checkpoint.
    """
    require_repo(repo)
    stages, (_, form) = lineage(path), form_of(path)
    base, data = stages[0].place, next((s.facts["data"] for s in reversed(stages) if "data" in s.facts), "")
    data = Path(data).name if Path(data).is_absolute() else data
    if comparison and model not in comparison["models"]:
        raise ValueError(f"--model {model}: was not evaluated; the comparison has {', '.join(comparison['models'])}")
    score = comparison["models"][model] if comparison else None
    if comparison and not (isinstance(score, dict) and "accuracy" in score):
        raise ValueError(f"--evaluation: holds no accuracy of {model}; it takes a comparison.json")
    results = [
        EvalResult(
            task_type=TASK, dataset_type=re.sub(r"[^\w.-]+", "-", data).strip("-") or "own", dataset_name=data or "own",
            dataset_split="test", metric_type="accuracy", metric_value=round(score["accuracy"], 4),
            metric_name=f"accuracy, 95 % interval by clip {from_to(score['ci95_clustered'])} %",
        )
    ] if score else None  # fmt: skip
    facts = {"base_model": base} if not (ROOT / base).exists() else {}  # a folder here is no name of the hub
    if form:
        facts["quantized_by"] = "torchao" if form.pack else "llm-compressor"
    head = ModelCardData(
        **licence_of(base, licence), **facts, library_name="transformers", pipeline_tag=TASK, eval_results=results,
        model_name=repo.split("/")[-1], tags=["cosmos-reason", "video", *[stage.kind for stage in stages[1:]]],
    )  # fmt: skip
    body = "\n\n".join(_sections(path, repo, stages, contract, comparison, score, model))
    card = ModelCard(f"---\n{head.to_yaml()}\n---\n\n{body}\n")
    if ModelCard(str(card)).data.to_dict() != card.data.to_dict():
        raise ValueError(f"{repo}: the card's metadata do not survive being written")
    return card


def _sections(path, repo, stages, contract: Contract, comparison, score, model: str) -> Iterator[str]:
    rows = [(s.kind, Path(s.place).name if Path(s.place).is_absolute() else s.place, *(s.facts.get(k, "") for k in
            ("config", "passport", "contract", "seed"))) for s in stages]  # fmt: skip
    head = ("step", "where", "configuration", "data passport", "contract", "seed")
    yield f"# {repo.split('/')[-1]}\n\n" + Table(head, rows).markdown()
    vision = ", ".join(f"{key} {value}" for key, value in contract.vision.stated().items())
    line = serve_line(path, repo, contract, 8000).replace(str(form_of(path)[0]), "FOLDER")
    yield f"## How it must be asked\n\nContract {contract.hash}: {vision}; the answer as {contract.answer_format}."
    yield f"```\n{contract.system or '(no system prompt)'}\n```"
    yield f"Served by vLLM (0.11 or later; this line was written, not run):\n\n```\n{line}\n```"
    if score:
        chances = {task: f"{level['chance']:.2f}" for task, level in comparison["tasks"].items()}
        tasks = [(task, found["n"], chances[task], f"{found['accuracy']:.2f}", from_to(found["ci95"]))
                 for task, found in score["tasks"].items()]  # fmt: skip
        whole = f"{score['accuracy']:.1%} of {score['n']} questions on {score['clusters']} unseen clips, guessing gets "
        whole += f"{comparison['chance']:.1%}. 95 %, whole clips drawn: {from_to(score['ci95_clustered'])} %."
        yield (
            f"## Evaluation\n\nAs `{model}`: {whole}\n\n"
            + Table(("task", "n", "chance", "right", "95 %"), tasks).markdown()
        )
    if said := (comparison or {}).get("verdicts"):
        yield "\n".join(["## Against the form it was made of", "", *(f"- {words}" for words in said)])
    yield "\n".join(["## Known limits", "", *(f"- {limit}" for limit in _limits(comparison, score))])


def _limits(comparison, score) -> Iterator[str]:
    """Yields what a user should not expect."""
    yield "Measured on the data named above alone; other clips, cameras and questions were not tried."
    if not score:
        yield "Not evaluated."
        return
    for task, found in score["tasks"].items():
        if found["ci95"][0] <= comparison["tasks"][task]["chance"]:
            yield f"{task}: not shown to be better than guessing ({found['accuracy']:.0%} of {found['n']})."
    if score["unread_rate"] > WEAK:
        yield f"{score['unread_rate']:.0%} of its answers could not be read."


def require_repo(repo: str) -> None:
    """Raises ValueError for what is no name of a repository on the hub."""
    try:
        validate_repo_id(repo)
        if "/" not in repo:
            raise HFValidationError(f"{repo}: says no owner")
    except HFValidationError as error:
        raise ValueError(f"--repo: {error}; it is OWNER/NAME") from None


def write_card(card: ModelCard, path: str | Path) -> Path:
    """Write a card into its checkpoint's folder, beside the base's own licence. Returns the file.

    Raises RunError where it cannot be written.
    """
    folder, base = form_of(path)[0], on_disk(lineage(path)[0].place)
    for file in [*base.glob("LICENSE*"), *base.glob("NOTICE*")] if base else ():
        write_whole(folder / file.name, file.read_bytes())
    write_whole(folder / CARD, str(card).encode())
    return folder / CARD


def push(path: str | Path, repo: str, really: bool = False, private: bool = True) -> Table:
    """Returns the files that an upload holds, with their size, and what stays here; sends them only if `really`.

    Needs no account to list. Raises CheckpointError for a folder without card or weights, ValueError for a secret or a
    path of this machine in one of its texts, with file and line, and for a name that is none.
    """
    require_repo(repo)
    folder = form_of(path)[0]
    there = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    sent = list(filter_repo_objects(there, allow_patterns=SENT, ignore_patterns=KEPT_BACK))
    if CARD not in sent:
        raise CheckpointError(f"{named(folder)}: has no {CARD}; write one: python -m cookbook.deploy card")
    metadata = metadata_load(folder / CARD) or {}
    if not metadata.get("license"):
        raise ValueError(f"{named(folder / CARD)}: names no licence; write it with python -m cookbook.deploy card")
    for name in WORDS.intersection(sent):
        _require_clean(folder / name)
    rows = [(name, (folder / name).stat().st_size, "is sent" if name in sent else "stays here") for name in there]
    if really:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=sent, commit_message="Weights and card")
    return Table(("file", "bytes", ""), rows, f"{repo}: {'sent' if really else 'would be sent'}")


def _require_clean(file: Path) -> None:
    """Raises ValueError, with the line, for a text that holds a secret or a path of this machine."""
    home = str(Path.home())
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if SECRET.search(line):
            raise ValueError(f"{named(file)}:{number}: holds what looks like a key; take it out, and withdraw the key")
        if str(ROOT) in line or (home != "/" and f"{home}/" in line) or OWN_PATH.search(line):
            raise ValueError(f"{named(file)}:{number}: holds a path of this machine; write the card again without it")
