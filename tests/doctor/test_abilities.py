"""What a machine can run: played GPUs and checks against the shipped configurations."""

import pytest
from cards import T4, cards

from cookbook.display.tables import MISSING, Check
from cookbook.doctor import abilities
from cookbook.doctor.checks import count


def can(cards: list, free_gib: float = 1000, *checks: Check) -> dict[str, bool]:
    gpus = Check("GPUs", *count(0, cards))
    return {a.name: a.possible for a in abilities.can_run([gpus, *checks], cards, free_gib)}


TINY, ENGINE, LORA, SFT, RL = "tiny, local", "tiny, cosmos-rl", "LoRA 7B", "SFT 7B", "RL 7B"


@pytest.mark.parametrize(
    ("cards", "possible"),
    [
        ([], {TINY}),
        (cards(1), {TINY, ENGINE, LORA}),
        (cards(2), {TINY, ENGINE, LORA, SFT, RL}),
        (cards(3), {TINY}),
        (cards(8), {TINY, ENGINE, LORA, SFT, RL}),
        (cards(8, T4), {TINY, ENGINE}),
    ],
    ids=["none", "1 x H100", "2 x H100", "3 x H100", "8 x H100", "8 x T4"],
)
def test_what_the_gpus_can_run(cards, possible):
    assert {name for name, yes in can(cards).items() if yes} == possible


def test_the_widest_file_that_fits_is_named_with_its_loader():
    for number, file in ((2, "sft_2gpu"), (4, "sft"), (8, "sft_8gpu")):
        found = {a.name: a for a in abilities.can_run([], cards(number), 1000)}[SFT]
        assert found.possible and f"configs/{file}.toml:" in found.reason
        assert found.command.endswith(f"--config configs/{file}.toml --run mine/{file} data_tools/cosmos_sft.py")
    found = {a.name: a for a in abilities.can_run([], cards(1), 1000)}
    assert found[ENGINE].command.endswith("--run mine/tiny_sft data_tools/road_vqa.py")
    assert found[TINY].command == "make tutorial"


def test_a_full_disk_or_a_missing_part_forbids_what_needs_it():
    assert can(cards(8), free_gib=100) == dict.fromkeys((TINY, ENGINE, LORA), True) | dict.fromkeys((SFT, RL), False)
    assert not any(list(can(cards(8), 1000, Check("redis-server", MISSING, "not found")).values())[1:])
    assert not any(can(cards(8), 1000, Check("torch", MISSING, "not installed")).values())
    full = Check("HF_HOME", MISSING, "1 GB free; 17 GB are needed at least")
    assert {n for n, yes in can(cards(8), 1000, full).items() if yes} == {TINY, ENGINE}


def test_a_broken_configuration_does_not_stop_the_doctor(monkeypatch):
    monkeypatch.setitem(abilities.SIZES, SFT, (abilities.ENGINE, ("nowhere.toml",)))
    found = can(cards(8))
    assert not found[SFT] and found[RL]
