"""LLaVA items and saved folders become conversations; what is bad is named, and one kind becomes another."""

import json

import datasets
import official_layouts as made
import pytest
from helpers import clip_name, llava_item, shape

from cookbook.data.samples import DataError, text
from data_tools import formats
from data_tools.formats import hf_rl

# ---- LLaVA ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (llava_item(), [["video", "What?"], ["Rain."]]),
        (llava_item("What?"), [["video", "What?"], ["Rain."]]),  # no placeholder: it opens the first question
        (llava_item("What is <video> there?"), [["What is ", "video", " there?"], ["Rain."]]),
        (llava_item("Before\n<video>\n\nAfter"), [["Before", "video", "\nAfter"], ["Rain."]]),
        (llava_item("<image>\nA <image>\nB", video=None, image=["i/0.png", "i/1.png"]),
         [["image", "A ", "image", "B"], ["Rain."]]),
        # the warehouse recipe: two images, one placeholder
        (llava_item("<image>\nCount.", video=None, images=["i/0.png", "i/1.png"]),
         [["image", "image", "Count."], ["Rain."]]),
        (llava_item("No picture", video=None), [["No picture"], ["Rain."]]),
        (llava_item(conversations=[{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<video>\nA?"},
                                   {"from": "gpt", "value": "B"}, {"from": "human", "value": "C?"},
                                   {"from": "gpt", "value": "D"}]),
         [["Be brief."], ["video", "A?"], ["B"], ["C?"], ["D"]]),
    ],
)  # fmt: skip
def test_llava_items_become_conversations(item, expected, llava_folder):
    made.json_file(llava_folder / "annotations.json", [item])
    (sample,) = formats.read(llava_folder)
    assert shape(sample) == expected
    if "images" in item:
        assert clip_name(sample) == ["0.png", "1.png"]


PLAIN = {"video": "v/0.mp4", "question": "What falls?\n(A) rain\n(B) snow"}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (PLAIN | {"answer": "A"}, ("A", None, ())),
        (PLAIN | {"answer": 3}, ("3", None, ())),
        (PLAIN, (None, None, ())),
        (PLAIN | {"answer": "rain", "options": ["rain", "snow"]}, ("rain", "rain", ("rain", "snow"))),
    ],
)
def test_a_question_and_its_answer_may_stand_plainly(item, expected, llava_folder):
    (llava_folder / "mine.jsonl").write_text(json.dumps(item | {"weather": "wet"}) + "\n")
    (sample,) = formats.read(llava_folder / "mine.jsonl")
    assert (sample.target, sample.answer, sample.options) == expected and sample.extra == {"weather": "wet"}
    assert sample.question == PLAIN["question"] and clip_name(sample) == ["0.mp4"]


def test_what_is_not_recognised_is_told_with_a_line_that_is(llava_folder):
    made.json_file(llava_folder / "annotations.json", [{"clip": "v/0.mp4", "caption": "Rain."}])
    with pytest.raises(DataError, match="fields clip, caption") as told:
        formats.read(llava_folder)
    (llava_folder / "annotations.json").write_text(str(told.value).partition("lines: ")[2].replace("clips/a", "v/0"))
    assert formats.read(llava_folder)[0].target == "Rain."


def test_llava_keeps_other_fields_and_makes_ids(llava_folder):
    items = [llava_item(category="count", normalized_answer=3, answer=3, label=True), llava_item()]
    del items[0]["id"]
    made.json_file(llava_folder / "train.json", items)
    first, second = formats.read(llava_folder)
    assert (first.id, first.group, second.id) == ("train-000000", "v/0", "x")
    assert (first.answer, first.label, first.extra) == ("3", "True", {"category": "count", "normalized_answer": 3})


def test_bad_llava_items_are_named(llava_folder):
    turns = llava_item()["conversations"]
    bad = [
        (llava_item("<video> <video>"), "more <video>"),
        (llava_item(video="v/gone.mp4"), "no such file"),
        (llava_item(video="../out.mp4"), "leaves the dataset's folder"),
        (llava_item(video="/etc/passwd"), "leaves the dataset's folder"),
        (llava_item(video="https://example.com/a.mp4"), "download"),
        (llava_item(video=3), "neither a path nor a list"),
        (llava_item(conversations=turns[1:]), "does not begin with a question"),
        (llava_item(conversations=[turns[0], {"from": "gpt", "value": " "}]), "assistant turn is empty"),
        (llava_item(conversations=[{"from": "robot", "value": "x"}]), "'robot', none of human"),
        (llava_item(conversations="x"), "not a list of turns"),
        ([1], "not an item"),
    ]
    made.json_file(llava_folder / "annotations.json", [llava_item(), *(item for item, _ in bad), llava_item()])
    problems = []
    (sample,) = formats.read(llava_folder, "llava", problems=problems)
    assert sample.id == "x"
    assert [name for name, _ in problems] == [f"annotations.json, item {i + 1}" for i in range(len(bad))] + ["x"]
    for (_, reason), (_, told) in zip([*bad, (None, "more than once")], problems):
        assert reason in told


def test_media_may_lie_in_a_folder_that_is_named(llava_folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("labels")
    made.json_file(elsewhere / "a.json", [llava_item()])
    with pytest.raises(DataError, match="no such file"):
        formats.read(elsewhere)
    assert len(formats.read(elsewhere, media=llava_folder)) == 1


# ---- save_to_disk -----------------------------------------------------------------------------------------------


def test_saved_folders_of_the_recipes(tmp_path, llava_folder):
    """As the video reward recipe writes them: absolute paths, one column, contents as text or parts; or with splits."""
    clip = str(llava_folder / "v/0.mp4")
    asked = [{"type": "video", "video": clip}, text("Physics?")]
    talk = [{"role": "system", "content": "Rate."}, {"role": "user", "content": asked},
            {"role": "assistant", "content": "<answer>\n4\n</answer>"}]  # fmt: skip
    table = datasets.Dataset.from_dict({"conversations": [json.dumps(talk)] * 2, "pc": [4, None]})
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="name its folder"):
        formats.read(tmp_path / "plain")
    samples = formats.read(tmp_path / "plain", media=llava_folder)
    assert [(r.id, r.group, r.extra) for r in samples] == [
        ("train-000000", "v/0", {"pc": 4}),
        ("train-000001", "v/0", {}),
    ]
    assert shape(samples[0]) == [["Rate."], ["video", "Physics?"], ["<answer>\n4\n</answer>"]]
    ids = [r.id for r in formats.read(tmp_path / "splits", media=llava_folder)]
    assert ids == ["train-000000", "train-000001", "test-000000"]
    assert len(formats.read(tmp_path / "splits/train", media=llava_folder)) == 2
    with pytest.raises(DataError, match="no split dev; it has train, test"):
        formats.read(tmp_path / "splits", split="dev", media=llava_folder)
    with pytest.raises(DataError, match="no column 'messages'; it has conversations, pc"):
        formats.read(tmp_path / "plain", column="messages")


def test_bad_saved_rows_and_folders(tmp_path):
    datasets.Dataset.from_dict({"conversations": ["{", "[]", '[{"role": "user", "content": 3}]']}).save_to_disk(
        tmp_path / "d"
    )
    problems = []
    assert formats.read(tmp_path / "d", problems=problems) == []
    assert [name for name, _ in problems] == [f"d, train[{i}]" for i in range(3)]
    (tmp_path / "d/data-00000-of-00001.arrow").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be loaded from disk"):
        formats.read(tmp_path / "d")


# ---- from one kind to the other ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Who?\n(A) cat\n(B) dog\nAnswer with a letter.", ("Who?", {"A": "cat", "B": "dog"})),
        ("Who?\nA) cat\nB) dog\nC) cow", ("Who?", {"A": "cat", "B": "dog", "C": "cow"})),
        (" \n Who? \n A: cat \n B: dog \n ", ("Who?", {"A": "cat", "B": "dog"})),
        ("Who?\nB) dog\nA) cat", ("Who?\nB) dog\nA) cat", {})),
        ("A: the first\nand no more", ("A: the first\nand no more", {})),
        ("Is it red? [Yes/No]", ("Is it red? [Yes/No]", {})),
    ],
)
def test_choices_of_a_question(words, expected):
    assert hf_rl.choices_of(words) == expected


def test_multiple_choice_in_llava_becomes_rl_data(llava_folder, tmp_path):
    """The traffic recipe's items are SFT data; with their letter as the reference they serve RL too."""
    item = llava_item("<video> \n Who? \n A: cat \n B: dog \n \nAnswer with the letter.", answer="B")
    made.json_file(llava_folder / "annotations.json", [item, llava_item("Who?\nA) x\nB) y", id="y")])
    problems = []
    left = formats.write(formats.read(llava_folder), tmp_path / "rl", "hf_rl", problems)
    (sample,) = formats.read(tmp_path / "rl")
    assert sample.extra["qa_pairs"] == {"question": "Who?", "index2ans": {"A": "cat", "B": "dog"}, "answer": "B"}
    assert left["wording of the prompt"] == left["answer in words"] == 1
    assert problems == [("y", "has no reference answer to compare with")]
