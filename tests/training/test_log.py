"""What a run writes down and shows."""

import json

import pytest

from coreface.training.log import RunLog


def written(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_are_json_and_what_is_not_finite_is_null(tmp_path, screen):
    values = {"step": 3, "a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.1, "e": None, "f": "ä\n"}
    with RunLog(tmp_path, 5, screen) as log:
        log.row("step", values)
        log.row("evaluation", {"step": 4, "eer": 0.5})
    assert written(tmp_path) == [
        {"kind": "step", "step": 3, "a": None, "b": None, "c": None, "d": 0.1, "e": None, "f": "ä\n"},
        {"kind": "evaluation", "step": 4, "eer": 0.5},
    ]


def test_a_row_can_be_read_while_the_run_goes_on(tmp_path, screen):
    with RunLog(tmp_path, 5, screen) as log:
        log.row("step", {"step": 1})
        assert written(tmp_path) == [{"kind": "step", "step": 1}]


def test_a_second_log_appends(tmp_path, screen):
    for step in (1, 2):
        with RunLog(tmp_path, 5, screen) as log:
            log.row("step", {"step": step})
    assert [row["step"] for row in written(tmp_path)] == [1, 2]


def test_where_there_is_no_terminal_plain_lines_come_now_and_then(tmp_path, screen, monkeypatch):
    clock = iter(range(0, 10_000, 4))  # 4 s a step
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with RunLog(tmp_path, 20, screen) as log:
        for step in range(1, 21):
            log.advance(step, 1 + step // 10, f"loss {step}")
    lines = screen.text.splitlines()
    assert 5 <= len(lines) <= 7  # one in 15 s, and the last
    assert lines[-1].startswith("epoch 3  step 20/20  loss 20  ETA 0 s")
    assert "step 4/20" in lines[0]
    assert "ETA 1 min 4 s" in lines[0]  # 16 steps of 4 s
    assert "\x1b" not in screen.text


def test_the_time_left_counts_all_steps_before_the_first_line(tmp_path, screen, monkeypatch):
    clock = iter([0, 100, 100])  # the first 50 steps of this run take 100 s
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with RunLog(tmp_path, 1000, screen, first_step=200) as log:
        log.advance(250, 2, "loss 1")
    assert "step 250/1000  loss 1  ETA 25 min 0 s" in screen.text  # 750 steps of 2 s


def test_a_message_is_shown_as_it_is(tmp_path, screen):
    with RunLog(tmp_path, 1, screen) as log:
        log.say("[red]not a colour[/red] :smile: " + "x" * 300)
    assert screen.text == "[red]not a colour[/red] :smile: " + "x" * 300 + "\n"


def test_a_terminal_gets_a_bar(tmp_path, screen):
    terminal = type(screen)(terminal=True)
    with RunLog(tmp_path, 4, terminal) as log:
        log.advance(4, 2, "loss 0.5")
    assert "epoch 2" in terminal.text
    assert "4/4" in terminal.text


def test_tensorboard_gets_the_numbers_where_it_is_installed(tmp_path, screen):
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 4, screen) as log:
        log.row("step", {"step": 1, "loss": 0.5, "error": "text", "nothing": None})
    assert list((tmp_path / "tensorboard").glob("events*"))
