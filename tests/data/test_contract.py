"""The contract: one prompt, one answer format, one parser, one hash."""

import re
from dataclasses import replace

import pytest

from cookbook.data.architecture import QWEN2_5_VL, QWEN3_VL
from cookbook.data.contract import Contract, ContractError
from cookbook.data.vision import clip_tokens, stamp_tokens
from cookbook.runs import ROOT

LETTERS, BINARY = ("A", "B", "C", "D"), ("Yes", "No")


@pytest.mark.parametrize(
    ("completion", "options", "answer"),
    [
        ("<think>x</think>\n\n<answer>B</answer>", LETTERS, "B"),
        ("<think>x</think>\n\n<answer>(b)</answer>", LETTERS, "B"),
        ("<think>x</think>\n\n<answer>\nB.\n</answer>", LETTERS, "B"),
        ("<answer>C) rain</answer>", LETTERS, "C"),
        ("<answer>A</answer> no, <answer>D</answer>", LETTERS, "D"),  # the last stated answer counts
        ("<answer>yes</answer>", BINARY, "Yes"),
        ("<answer>No.</answer>", BINARY, "No"),
        ("The answer is B.", LETTERS, None),  # no tag, no answer
        ("<answer>Because</answer>", LETTERS, None),  # a word that begins like a letter is no letter
        ("<answer>E</answer>", LETTERS, None),
        ("<answer></answer>", LETTERS, None),
        ("<answer>B", LETTERS, None),
        ("", LETTERS, None),
    ],
)
def test_answers_are_read(contract, completion, options, answer):
    assert contract.read_answer(completion, options) == answer


@pytest.mark.parametrize(
    ("completion", "good"),
    [
        ("<think>It is red.</think>\n\n<answer>A</answer>", True),
        ("<think>a\nb</think>\n\n<answer>A</answer>", True),
        ("<think>a</think> <answer>A</answer>", False),
        ("<think>a</think>\n<answer>A</answer>", False),
        ("<answer>A</answer>", False),
        ("<think>a<think>b</think>\n\n<answer>A</answer>", False),
        ("<think>a</think>\n\n<answer>A</answer> and more", False),
    ],
)
def test_format_is_exact(contract, completion, good):
    assert contract.is_well_formed(completion) is good


def test_the_text_format_takes_the_whole_completion():
    plain = Contract.load(ROOT / "configs/prompts/captions.yaml")
    assert plain.write_answer("They touch.", "B") == "B" and plain.is_well_formed("B") and not plain.is_well_formed(" ")
    assert plain.read_answer("(b) rain", LETTERS) == "B"
    assert plain.read_answer("It rains.", LETTERS) is None
    assert plain.read_answer(" A wet road.\n") == "A wet road."


def test_a_prompt_that_shows_another_form_than_the_rewarded_one_is_refused(tmp_path):
    """The guide's own prompt has a space where its reward wants an empty line: no answer could ever earn it."""
    path = tmp_path / "c.yaml"
    path.write_text(
        'system: "Answer as <think>…</think> <answer>…</answer>"\nanswer_format: think_answer\n'
        "video: {fps: 1, min_pixels: 784, max_pixels: 3136}\n"
    )
    with pytest.raises(ValueError, match="the prompt shows"):
        Contract.load(path)


def test_every_gold_target_passes_its_own_parser(samples, contract):
    for sample in samples:
        assert contract.is_well_formed(sample.target)
        assert contract.read_answer(sample.target, sample.options) == sample.answer


def test_hash_changes_with_every_part(tmp_path, contract):
    text = (
        "system: {system}\nanswer_format: think_answer\nvideo: {{fps: {fps}, min_pixels: 784, max_pixels: {pixels}}}\n"
    )
    hashes = set()
    for i, values in enumerate([("a", 2, 3136), ("b", 2, 3136), ("a", 4, 3136), ("a", 2, 6272)]):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text.format(system=values[0], fps=values[1], pixels=values[2]))
        hashes.add(Contract.load(path).hash)
    assert len(hashes) == 4


def test_a_misspelt_key_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("sytem: a\nanswer_format: think_answer\nvideo: {fps: 2, min_pixels: 1, max_pixels: 2}\n")
    with pytest.raises(ValueError, match="sytem"):
        Contract.load(path)


VIDEO = "video: {fps: 1, min_pixels: 784, max_pixels: 3136}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "no table"),
        ("only words", "no table"),
        ("- system\n- answer_format\n", "no table"),
        ("system: a\nanswer_format: text\nvideo: 1\n", "no table"),
        ("system: [a\n", "not YAML"),
        ("system: a\nsystem: b\nanswer_format: text\n" + VIDEO, "system stands twice"),
        ("system: a\nanswer_format: text\n" + VIDEO.replace("fps: 1", "fps: 1, fps: 4"), "fps stands twice"),
        ("system: a\nanswer_format: text\n" + VIDEO.replace("784", "100352"), "100352, above max_pixels, 3136"),
        ("? [a, b]\n: c\n", "not YAML"),
        ("!!map [1]", "expected a mapping node"),
        ("d: 2020-99-99", "month must be in 1..12"),
        ("system: " + "9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_contract_is_named(tmp_path, words, told):
    path = tmp_path / "c.yaml"
    path.write_text(words)
    with pytest.raises(ContractError, match=told) as caught:
        Contract.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    path.write_text("system: a\nanswer_format: text\n" + VIDEO)
    assert Contract.load(path).vision.max_pixels == 3136


@pytest.mark.fault("inputs")
@pytest.mark.parametrize("key", ["fps", "min_pixels", "max_pixels", "max_frames", "max_new_tokens"])
@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-1", "0", "true", '"2"', "null", "[1]", "1.0e-9", str(10**30), "{}"]
)
def test_a_number_that_is_none_is_refused_by_name(tmp_path, key, value):
    lines = {"fps": "2", "min_pixels": "784", "max_pixels": "3136", "max_frames": "8", "max_new_tokens": "9"} | {
        key: value
    }
    video = "".join(f"  {name}: {lines[name]}\n" for name in lines if name != "max_new_tokens")
    head = f'system: ""\nanswer_format: text\nmax_new_tokens: {lines["max_new_tokens"]}\n'
    (tmp_path / "c.yaml").write_text(f"{head}video:\n{video}")
    with pytest.raises(ContractError, match=rf"c\.yaml: {key} is .*; it takes a (whole )?number from"):
        Contract.load(tmp_path / "c.yaml")


@pytest.mark.fault("inputs")
def test_a_contract_of_another_encoding_is_refused_and_a_mark_is_read(tmp_path):
    text = (ROOT / "configs/prompts/road.yaml").read_text()
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8-sig")
    assert Contract.load(tmp_path / "c.yaml").hash == Contract.load("configs/prompts/road.yaml").hash
    (tmp_path / "c.yaml").write_text(text, encoding="utf-16")
    with pytest.raises(ContractError, match=r"c\.yaml: is not YAML"):
        Contract.load(tmp_path / "c.yaml")


@pytest.mark.fault("inputs")
def test_a_prompt_that_holds_a_control_token_is_refused(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "system: Be brief.<|im_end|>\nanswer_format: text\nvideo: {fps: 1, min_pixels: 784, max_pixels: 784}\n"
    )
    with pytest.raises(ContractError, match="control token"):
        Contract.load(file)


# ---- the other family of bases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs/prompts").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_base_of_either_family_is_shown_as_many_tokens(path):
    stated = Contract.load(path)
    both = seven, eight = stated.for_base(QWEN2_5_VL), stated.for_base(QWEN3_VL)
    assert stated in both
    tokens = [[n // family.unit**2 for key, n in made.vision.stated().items() if "pixels" in key]
              for made, family in zip(both, (QWEN2_5_VL, QWEN3_VL))]  # fmt: skip
    assert tokens[0] == tokens[1] and min(tokens[0]) > 0
    for made in both:  # a contract that fits stays, and one goes back to where it came from
        assert (made.for_base(QWEN2_5_VL), made.for_base(QWEN3_VL)) == both
    eight.require(seven, "a checkpoint")
    with pytest.raises(ContractError, match="max_frames: 768 there, 16 here"):
        replace(eight, vision=replace(eight.vision, max_frames=16)).require(seven, "a checkpoint")


def test_the_published_pixels_of_reason2_follow_from_those_of_reason1():
    """NVIDIA's traffic recipes: 6,422,528 pixels a clip for Reason1, 8,388,608 for Reason2, both 8,192 tokens."""
    stated = Contract.load(ROOT / "configs/prompts/intelligent_transportation_8k.yaml")
    for family, pixels in ((QWEN2_5_VL, 6_422_528), (QWEN3_VL, 8_388_608)):
        assert stated.for_base(family).vision.total_pixels == pixels == 8192 * family.unit**2


def test_limits_that_are_nobodys_stay(contract):
    odd = replace(contract, vision=replace(contract.vision, min_pixels=1000))
    assert odd.for_base(QWEN3_VL) == odd == odd.for_base(QWEN2_5_VL)


@pytest.mark.parametrize("name", ["captions", "reason2_captions", "reason2_choices"])
def test_a_prompt_file_says_up_to_which_seconds_a_clip_fits(name):
    """In any shape; and of twice the seconds it does not."""
    file = ROOT / f"configs/prompts/{name}.yaml"
    said = " ".join(line.lstrip("# ") for line in file.read_text(encoding="utf-8").splitlines())
    words = int(re.search(r"with (\d+) tokens", said)[1])
    fits = re.findall(r"below ([\d,]+)(?: for clips)? up to (\d+) s", said)
    sees, family = Contract.load(file).vision, QWEN3_VL if "reason2" in name else QWEN2_5_VL

    def most(seconds):
        limits = {"total_pixels": sees.total_pixels, "max_frames": sees.max_frames, "family": family}
        shapes = [(1920, 1080), (1080, 1920), (640, 480), (1000, 1000), (2048, 512)]
        found = (clip_tokens(seconds, sees.fps, *shape, sees.max_pixels, sees.min_pixels, **limits) for shape in shapes)
        return max(found) + family.stamped * stamp_tokens(seconds, sees.fps, sees.max_frames) + words

    assert fits
    for limit, seconds in ((int(limit.replace(",", "")), int(seconds)) for limit, seconds in fits):
        assert all(most(n) < limit for n in range(1, seconds + 1)) and most(2 * seconds) > limit
