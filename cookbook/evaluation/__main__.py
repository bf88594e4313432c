"""Let a model answer a dataset, and score stored answers again without a model.

Why: the answers are the result: they are kept as they come, on several GPUs or from a server, and a run that was killed
goes on. A better parser or another rule then needs no GPU.

    python -m cookbook.evaluation predict --model runs/mine/sft --data FOLDER --out sft.jsonl --gpus 4
    python -m cookbook.evaluation predict --model NAME --data FOLDER --out sft.jsonl --server http://localhost:8000/v1
    python -m cookbook.evaluation predict --model runs/mine/sft --data FOLDER --out sft.jsonl --vllm --preset greedy
    python -m cookbook.evaluation score base.jsonl sft.jsonl rl.jsonl            # compared, each with the step before
    python -m cookbook.evaluation score predictions.jsonl --json
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

from yaml import YAMLError

from cookbook.data.answers import FORMATS
from cookbook.display.terminal import command_parser, number_from, sigterm_exits
from cookbook.evaluation import findings, scores
from cookbook.evaluation.metrics import measure
from cookbook.evaluation.predictions import read
from cookbook.evaluation.published import published_score

STEPS = ("base", "sft", "rl")  # the order in which files of these names are compared, however they are given


def _stem(path: Path) -> str:
    return path.stem.removeprefix("predictions_")


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Returns a name for each file: its own without "predictions_", behind as many folders as tell it from the others.

    Raises ValueError for a file that is given twice, or named as another one of its folder.
    """
    parts = [(*path.resolve().parent.parts, _stem(path)) for path in paths]
    ends = [["/".join(part[-n:]) for n in range(1, len(part))] for part in parts]
    seen = Counter(end for each in ends for end in each)
    names = [next((end for end in each if seen[end] == 1), "") for each in ends]
    if "" in names:
        raise ValueError(f"{paths[names.index('')]}: stands there twice; give each file once, under a name of its own")
    return names


def score_files(paths: Sequence[Path], form: str | None = None, published: bool = False) -> dict:
    """Score stored predictions again. Returns {"models": {name: score and metrics}}, with comparisons where several.

    With `published`, each has what NVIDIA's rule gives too. Raises ValueError for a file that is no predictions file,
    files of different items, or of one name (`told_apart`).
    """
    if set(map(_stem, paths)) <= set(STEPS):
        paths = sorted(paths, key=lambda path: STEPS.index(_stem(path)))
    found = {name: read(path, form) for name, path in zip(told_apart(paths), paths)}
    models = {}
    for (name, rows), path in zip(found.items(), paths):
        try:
            models[name] = scores.score(rows) | {"metrics": measure(rows)}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    for name, rows in found.items() if published else ():
        models[name]["published"] = published_score(rows)
    return {"models": models} | (scores.compare_pairs(found) if len(found) > 1 else scores.compare_texts(found))


def _table(result: dict) -> Iterator[str]:
    for name, s in result["models"].items():
        line = "{}: {:.3f} [{:.3f}, {:.3f}] of {}".format(name, s["accuracy"], *s["ci95"], s["n"])
        line += f"; no answer read {s['unread_rate']:.3f}, wherever it stands {s['lenient_accuracy']:.3f}"
        yield line + (f"; by NVIDIA's rule {s['published']['accuracy']:.3f}" if "published" in s else "")
    for pair, step in findings.judged_steps(result).items() if "paired" in result else ():
        changed = "won {won}, lost {lost}".format(**result["paired"][pair])
        sure = "" if step["sure"] else ", not certain"
        yield f"{pair}: {changed}: {findings.points(step['difference'])} points, {findings.p_value(step['p'])}{sure}"
    if said := findings.sentence_words(result):
        yield said


def predict_file(given: argparse.Namespace) -> str:
    """Let a model answer, as the command line asks; answers that `given.out` has already are kept. Returns a summary.

    Raises ValueError, OSError or RuntimeError for what cannot be used, for a part that failed, and for a server.
    """
    import torch  # scoring needs neither torch nor any data

    from cookbook import checkpoint, jobs, pipeline
    from cookbook.config.models import family_of
    from cookbook.evaluation.parallel import end_with_stdin, part_file, predict_parallel
    from cookbook.evaluation.predict import predict
    from cookbook.evaluation.presets import preset
    from cookbook.evaluation.server import predict_server
    from cookbook.evaluation.vllm import vllm_server

    if given.config and (idle := [f"--{key}" for key in ("format", "loader", "contract", "split") if vars(given)[key]]):
        raise ValueError(f"{', '.join(idle)}: does not go with --config, which states its own; name --data instead")
    if given.out.is_dir():
        raise ValueError(f"--out {given.out}: is a folder; name the file of the answers in it")
    if not given.server:
        checkpoint.find(given.model)  # before any data are read
    samples, contract, dtype = jobs.evaluation_samples(
        given.data, given.format, given.loader, given.contract or given.model, given.split, given.config
    )
    samples, (seen, how) = samples[: given.questions], preset(given.preset, contract)
    stated = {"limit": given.limit, "temperature": given.temperature}
    how |= {key: value for key, value in stated.items() if value is not None}
    part, parts = map(int, given.part.split("/"))
    if parts > 1:
        Thread(target=end_with_stdin, daemon=True).start()
    path, name = part_file(given.out, part, parts), given.name or _stem(given.out)
    if given.server:
        rows = predict_server(given.server, given.model, samples, seen, name, path=path, **how)
    elif given.vllm:
        seen = seen.for_base(family_of(given.model))
        with vllm_server(given.model, seen, given.gpus) as address:
            rows = predict_server(address, given.model, samples, seen, name, path=path, **how)
    elif given.gpus > 1 and parts == 1:
        rows = predict_parallel(given.said[1:], [sample.id for sample in samples], path, given.gpus)
    else:
        dtype = dtype if torch.cuda.is_available() else "float32"
        asked = pipeline.open_model(given.model, contract, dtype, seen)
        rows = predict(*asked, samples[part::parts], name, given.size, path=path, **how)
    failed = sum(bool(row.get("error")) for row in rows)
    if rows and failed == len(rows):
        raise RuntimeError(f"no question was answered; the first: {rows[0]['error']}")
    return f"{len(rows)} answers in {path}" + f", {failed} of them errors: ask again by the same command" * (failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("cookbook.evaluation", __doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="predict|score")
    ask = commands.add_parser("predict", help="let a model answer a dataset")
    ask.add_argument("--model", required=True, help="a checkpoint or run folder; with --server, its name there")
    asked = ask.add_mutually_exclusive_group(required=True)
    asked.add_argument("--data", default="", help="a folder, a file or a dataset of the hub")
    asked.add_argument("--config", default="", help="a run's config.toml instead: its data, loader and contract")
    ask.add_argument("--format", default="", help="of the data; else it is found out")
    ask.add_argument("--loader", default="", help="a file with load(config); else that of the format")
    ask.add_argument("--contract", default="", help="prompt, form, vision limits; else the checkpoint's own")
    ask.add_argument("--split", default="", help="test, validation or train; else test where there is one, or all")
    ask.add_argument("--questions", type=number_from(1), help="only the first so many")
    ask.add_argument("--out", required=True, type=Path, help="the file of the answers; it is continued")
    ask.add_argument("--name", default="", help="of the model in the rows; else that of the file")
    ask.add_argument("--size", type=number_from(1), default=64, help="questions answered together")
    ask.add_argument("--preset", default="", help="how answers are drawn, by a name of configs/generation.yaml")
    ask.add_argument("--limit", type=number_from(1), help="tokens of an answer; else as preset or contract says")
    ask.add_argument("--temperature", type=number_from(0.0), help="0 is greedy; else as the preset says")
    ask.add_argument("--gpus", type=number_from(1), default=1, help="one process for each")
    served = ask.add_mutually_exclusive_group()
    served.add_argument("--server", default="", help="the address of an OpenAI-compatible server, ending in /v1")
    served.add_argument("--vllm", action="store_true", help="start vLLM, which must be installed, ask it, and stop it")
    ask.add_argument("--part", default="0/1", help=argparse.SUPPRESS)  # of one process of several
    score = commands.add_parser("score", help="score stored answers")
    score.add_argument("files", nargs="+", type=Path, help="one model or several; unknown names are taken oldest first")
    score.add_argument("--json", action="store_true", help="all figures, as JSON")
    score.add_argument("--format", choices=list(FORMATS), help="where an answer stands; else as each row says")
    score.add_argument("--published", action="store_true", help="also by the rule of NVIDIA's benchmark script")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 with one line on stderr where the files cannot be used."""
    given = _parser().parse_args(arguments)
    given.said = sys.argv[1:] if arguments is None else arguments
    try:
        if given.command == "predict":
            with sigterm_exits():
                print(predict_file(given))
            return 0
        result = score_files(given.files, given.format, given.published)
    except (ValueError, OSError, RuntimeError, YAMLError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        print("stopped; what was answered is kept: the same command goes on", file=sys.stderr)
        return 130
    print(json.dumps(result, indent=1, ensure_ascii=False) if given.json else "\n".join(_table(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
