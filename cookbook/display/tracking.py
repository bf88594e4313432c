"""A run in Weights & Biases: its curves from metrics.jsonl, kept offline until somebody sends them.

Why: many teams compare their runs there. Nothing here needs an account: the run is written to a folder, and
`wandb sync FOLDER` sends it later. cosmos-rl also logs by itself, as it goes, where `logging.logger` names wandb.

    track("mine/sft", project="cosmos_reason1_vqa")
"""

import os

from cookbook.runs import MANIFEST, named, path, read_json, read_metrics


def track(run: str, project: str, mode: str = "offline") -> str:
    """Write a run's curves and facts as a W&B run, below its folder. Returns what to do with it, in two lines.

    `mode` is wandb's own: "offline", or "online" after `wandb login`. Raises FileNotFoundError where there is no run.
    """
    import wandb  # a second, for those who want it

    rows, folder = read_metrics(run), path(run)
    facts = read_json(folder / MANIFEST)
    os.environ.setdefault("WANDB_SILENT", "true")  # its own lines name this machine
    settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
    tracked = wandb.init(project=project, name=run, dir=str(folder), mode=mode, config=facts, settings=settings)
    for row in rows:
        tracked.log(row, step=row["step"])
    tracked.finish()
    kept = max((folder / "wandb").glob("*run-*"), key=lambda place: place.stat().st_mtime)
    url = tracked.url or f"https://wandb.ai/<your-name>/{project}/runs/{tracked.id}, after: wandb sync {named(kept)}"
    return f"{len(rows)} steps of {run} in {named(kept)}\nwandb: View run at {url}"
