"""The engine's log: its steps, and the one traceback that came first."""

from fake_engine import FAKE, trace

from cookbook.engine.log_lines import parse_step, root_cause, traces


def test_steps_of_both_trainings_are_read():
    sft = next(filter(None, map(parse_step, (FAKE / "sft_ok.log").read_text().splitlines())))
    assert (sft.number, sft.total, sft.values["Loss"]) == (1, 12, 6.17335)
    assert sft.values["optimizer/lr_model"] == 2e-3
    grpo = next(filter(None, map(parse_step, (FAKE / "grpo_colocated_ok.log").read_text().splitlines())))
    assert grpo.total == 8 and {"Reward Mean", "KL Loss Avg", "Iteration time"} <= grpo.values.keys()
    assert parse_step("[Policy] Step: 6, checkpoint saved successfully") is None


def test_good_logs_hold_no_trouble():
    for log in ("sft_ok.log", "grpo_colocated_ok.log", "sft_resume_ok.log"):
        assert traces((FAKE / log).read_text().splitlines()) == []


def test_the_first_traceback_is_found_among_those_of_ranks_that_talk_at_once():
    a = trace("ValueError: bad clip", rank=0).splitlines()
    b = trace("torch.distributed.DistBackendError: NCCL error", rank=1).splitlines()
    c = trace("ValueError: bad clip", rank=2).splitlines()
    mixed = [line for three in zip(b, a, c) for line in three]
    found = traces(mixed)
    assert root_cause(found).error == "ValueError: bad clip"
    assert [len(t.lines) for t in found] == [5, 5, 5]


def test_what_steps_followed_was_survived():
    lines = [*trace("ValueError: survived").splitlines(), "step", *trace("KeyError: 'fatal'").splitlines()]
    assert root_cause(traces(lines), after=6).error == "KeyError: 'fatal'"
    assert root_cause(traces(lines), after=99).error == "KeyError: 'fatal'"  # steps of what was left in a buffer
