"""After training: make a checkpoint smaller, serve it, compare its forms, write its card, send it.

python -m cookbook.deploy quantise runs/tutorial/rl runs/tutorial/deploy/int8 --form int8
python -m cookbook.deploy serve runs/tutorial/deploy/int8 --port 8000
python -m cookbook.deploy compare full=runs/tutorial/rl int8=runs/tutorial/deploy/int8
python -m cookbook.deploy card runs/tutorial/deploy/int8 --repo me/road --licence apache-2.0
python -m cookbook.deploy push runs/tutorial/deploy/int8 --repo me/road
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from yaml import YAMLError

from cookbook.checkpoint.lineage import run_of
from cookbook.data.contract import Contract
from cookbook.deploy import quantise, serve
from cookbook.display.tables import verdicts
from cookbook.display.terminal import command_parser, number_from
from cookbook.evaluation.vllm import PROGRAM, take_port
from cookbook.runs import ROOT, named, read_json, write_whole

SERVED = "serve:"


def _contract(given: argparse.Namespace) -> Contract:
    return quantise.contract_of(given.path, Contract.load(ROOT / given.contract) if given.contract else None)


def _config_of(path: str, why: str) -> str:
    """Returns the configuration of the run that a checkpoint is of. Raises ValueError, with why it is needed."""
    folder = quantise.form_of(path)[0]
    config = (run_of(folder) or folder) / "config.toml"
    if not config.is_file():
        raise ValueError(f"{path}: is of no run, and {why}")
    return str(config)


def _quantise(given: argparse.Namespace) -> None:
    if given.form not in quantise.BY_LLM_COMPRESSOR:
        print(named(quantise.quantise(given.path, given.out, given.form)))
        return
    folder, scheme = quantise.form_of(given.path)[0], given.form.upper().replace("-", "_")
    line = f".venv-deploy/bin/python {quantise.SCRIPT} {named(folder)} {given.out} --scheme {scheme}"
    if given.form == "w4a16":
        from cookbook import jobs

        config = _config_of(given.path, "w4a16 is calibrated on what a run was trained on")
        train, contract, _ = jobs.evaluation_samples("", "", "", "", "train", config)
        clips = quantise.calibration(train, contract, folder, ROOT / f"{given.out}.calibration")
        line += f" --calibration {named(clips)}"
    print(f"make deploy-env     # once\n{line}")


def _serve(given: argparse.Namespace) -> None:
    contract, name = _contract(given), given.name or given.path
    line = serve.serve_line(given.path, name, contract, given.port, given.line or "vllm", given.reasoning_parser)
    if given.line:
        print(line)
    elif given.ours or not serve.with_vllm():
        from cookbook.deploy.app import run_server

        run_server(given.path, name, contract, given.host, given.port, given.open, given.ends)
    else:
        take_port(given.port)
        os.execvp(PROGRAM, shlex.split(line))


def _compare(given: argparse.Namespace) -> bool:
    from cookbook import jobs
    from cookbook.deploy import compare

    pairs = [form.split("=", 1) if "=" in form else (form, form) for form in given.forms]
    if len(named_forms := dict(pairs)) < max(2, len(pairs)):
        raise ValueError(f"{' '.join(given.forms)}: takes two forms or more, each with a name of its own, NAME=PATH")
    if not 0 < given.margin < 1:
        raise ValueError(f"--margin {given.margin}: takes a share of right answers above 0 and below 1, such as 0.05")
    for place in named_forms.values():  # before any of them is asked
        quantise.form_of(place.removeprefix(SERVED))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    first = pairs[0][1]
    why = "without --data a run's unseen clips are asked"
    config = "" if given.data else _config_of(first.removeprefix(SERVED), why)
    samples, contract, _ = jobs.evaluation_samples(given.data, "", "", given.contract or first, given.split, config)
    samples, asked = samples[: given.questions], {}
    compare.require_references(sample.answer for sample in samples)  # before all of them are asked
    for name, place in named_forms.items():
        out = given.out / f"predictions_{name}.jsonl" if given.out else None
        if place.startswith(SERVED):
            path = place.removeprefix(SERVED)
            with serve.served(path, name, given.contract) as address:
                encoder = quantise.open_form(path, contract)[1]
                serve.require_same_prompts(serve.check_server(address, name, samples[:2], encoder), address)
                asked[name] = compare.ask_served(name, address, path, samples, encoder, out)
        else:
            asked[name] = compare.ask_form(name, place, samples, contract, out)
    found = compare.compare_forms(asked, given.margin)
    if given.out:
        write_whole(given.out / "comparison.json", json.dumps(found.summary(), indent=1).encode())
    print(found)
    verdicts(found.verdicts())
    return all(one.holds for one in found.found.values())


def _card(given: argparse.Namespace) -> None:
    from cookbook.deploy import share

    comparison = read_json(given.evaluation, ("models", "tasks")) if given.evaluation else None
    card = share.model_card(given.path, given.repo, _contract(given), comparison, given.model, given.licence)
    print(named(share.write_card(card, given.path)))


def _push(given: argparse.Namespace) -> None:
    from cookbook.deploy import share

    print(share.push(given.path, given.repo, given.really))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("cookbook.deploy", __doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="quantise|serve|compare|card|push")
    helps = {
        "quantise": "write a checkpoint's smaller form",
        "serve": "serve a checkpoint under its contract",
        "compare": "ask all forms the same; exit 1 where one is not shown to be as good as the first",
        "card": "write the model card into the folder",
        "push": "list what an upload holds; --really sends it",
    }
    add = {name: commands.add_parser(name, help=words) for name, words in helps.items()}
    for name in ("quantise", "serve", "card", "push"):
        add[name].add_argument("path", help="a checkpoint or run folder, quantised or full")
    for name in ("quantise", "serve", "compare", "card"):
        add[name].add_argument("--contract", default="", help="for a checkpoint that carries none")
    add["quantise"].add_argument("out")
    words = "the last three: prints the lines that make them, by llm-compressor"
    add["quantise"].add_argument("--form", choices=quantise.READ, default="int8", help=words)
    add["serve"].add_argument("--name", default="", help="under which it is asked for; default: the path")
    add["serve"].add_argument("--host", default="127.0.0.1", help="of our server; vLLM listens to this machine")
    add["serve"].add_argument("--open", action="store_true", help="a host that other machines reach is meant")
    add["serve"].add_argument("--port", type=int, default=8000)
    add["serve"].add_argument("--ends", action="store_true", help=argparse.SUPPRESS)
    add["serve"].add_argument("--ours", action="store_true", help="our small server, also where vLLM is installed")
    add["serve"].add_argument("--line", choices=["vllm", *serve.IMAGES], help="print the line that serves it there")
    add["serve"].add_argument("--reasoning-parser", default="", help="of vLLM: qwen3, deepseek_r1")
    what = "the first is the one to be as good as; serve:PATH is served, asked and stopped"
    add["compare"].add_argument("forms", nargs="+", metavar="NAME=PATH", help=what)
    add["compare"].add_argument("--data", default="", help="default: what the run of the first has not trained on")
    add["compare"].add_argument("--split", default="")
    add["compare"].add_argument("--questions", type=number_from(1))
    add["compare"].add_argument("--margin", type=float, default=0.05, help="share of right answers that may be lost")
    add["compare"].add_argument("--out", type=Path, help="a folder for the answers, and comparison.json for the card")
    add["card"].add_argument("--repo", required=True, help="OWNER/NAME on the hub")
    add["card"].add_argument("--licence", default="", help="of the base, where its card names none")
    add["card"].add_argument("--evaluation", type=Path, help="comparison.json of evaluation.ipynb, or of compare")
    add["card"].add_argument("--model", default="", help="the checkpoint's name in it: sft, rl")
    add["push"].add_argument("--repo", required=True, help="OWNER/NAME on the hub")
    add["push"].add_argument("--really", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where a form is not shown to be as good, 2 with one line for what cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "compare":
            return int(not _compare(given))
        {"quantise": _quantise, "serve": _serve, "card": _card, "push": _push}[given.command](given)
    except (OSError, ValueError, RuntimeError, YAMLError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
