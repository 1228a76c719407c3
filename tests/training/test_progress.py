import io

from rich.console import Console

from palate.training.progress import TrainingProgress


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    with TrainingProgress(10, Console(file=out, width=40)) as progress:
        progress.at(1)
        progress.health("step 1/10 · loss 0.6931 · winner +1.00e-03 [not markup]")
        progress.warn("nothing moves")
    assert out.getvalue() == "step 1/10 · loss 0.6931 · winner +1.00e-03 [not markup]\nwarning: nothing moves\n"


def test_live_bar_on_a_terminal() -> None:
    out = io.StringIO()
    with TrainingProgress(10, Console(file=out, force_terminal=True, width=100)) as progress:
        progress.at(5)
        progress.health("step 5/10 · loss 0.6931")
        progress.say("a line that stays")
    assert "50%" in out.getvalue()
    assert "loss 0.6931" in out.getvalue()
    assert "a line that stays" in out.getvalue()


def test_a_narrow_terminal_cuts_nothing() -> None:
    out = io.StringIO()
    line = "step 5/10 · loss 0.6931 · winner +1.00e-03 · loser -2.00e-03 · accuracy 75% [not markup]"
    with TrainingProgress(10, Console(file=out, force_terminal=True, width=50)) as progress:
        progress.at(5)
        progress.health(line)
    shown = out.getvalue()
    assert "50%" in shown
    assert all(word in shown for word in line.split())
