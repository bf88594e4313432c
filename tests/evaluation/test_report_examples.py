"""The examples of a report: chosen by a rule, losses beside gains, many clips before many questions of one."""

from cookbook.evaluation import report


def marks(**patterns: str) -> dict[str, list[dict]]:
    """Predictions from pictures of them, + right and - wrong; each item has its own clip, tasks alternate."""
    return {name: [{"correct": mark == "+", "group": f"clip_{i}", "task": "ab"[i % 2]}
                   for i, mark in enumerate(pattern)] for name, pattern in patterns.items()}  # fmt: skip


def test_every_item_has_one_heading_and_only_what_all_models_knew_has_none():
    predictions = marks(base="--++--++", sft="-+-+-+-+", rl="----++++")
    kinds = report.sort_items(predictions)
    assert kinds == {
        "RL is right where SFT was wrong": [4, 6],
        "SFT learned it, RL kept it": [5],
        "RL is wrong where SFT was right": [1, 3],
        "RL is still wrong": [0, 2],
    }


def test_headings_take_turns_so_that_losses_are_shown_beside_gains():
    predictions = marks(sft="-" * 20 + "+", rl="+" * 19 + "--")
    chosen = report.choose_examples(report.sort_items(predictions), predictions["rl"], 6)
    assert list(map(len, chosen.values())) == [4, 0, 1, 1]


def test_new_clips_come_first_and_then_new_tasks():
    items = [{"group": "one", "task": "a"}, {"group": "one", "task": "b"}, {"group": "two", "task": "a"},
             {"group": "two", "task": "b"}, {"group": "three", "task": "a"}]  # fmt: skip
    assert report.choose_examples({"gains": [0, 1, 2, 3, 4]}, items, 4) == {"gains": [0, 3, 4, 1]}
    assert report.choose_examples({"gains": [0, 1, 2, 3, 4]}, items, 9) == {"gains": [0, 3, 4, 1, 2]}
    assert report.choose_examples({"gains": [0, 1, 2, 3, 4]}, items, 0) == {"gains": []}


def test_a_loss_is_shown_though_its_clip_stands_under_the_gains():
    items = [{"group": "one", "task": "a"}, {"group": "one", "task": "b"}]
    assert report.choose_examples({"gains": [0], "losses": [1]}, items, 6) == {"gains": [0], "losses": [1]}
