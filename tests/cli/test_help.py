"""Help is instant: it loads nothing but the command line itself."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "diffusers", "pyarrow", "datasets", "accelerate", "peft", "numpy", "PIL", "yaml"}
LIMIT = 20  # starts of a bare interpreter: 0.3 CPU seconds on a machine with nothing else to do

_LOADED = """
import sys
sys.argv = ["palate", *sys.argv[1:]]
from palate.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *{name.partition(".")[0] for name in sys.modules})
"""


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", ["--help", "score --help", "score --list"])
def test_help_is_instant(arguments: str) -> None:
    command, bare = [sys.executable, "-m", "palate", *arguments.split()], [sys.executable, "-c", "pass"]
    # In turns, and the best of each: what else the machine does slows both.
    turns = [(cpu_seconds(command), cpu_seconds(bare)) for _ in range(5)]
    fastest, start = map(min, zip(*turns, strict=True))
    assert fastest < LIMIT * start


def help_of(verb: str) -> tuple[str, set[str]]:
    """The help text of a verb and the libraries that were loaded for it."""
    done = subprocess.run([sys.executable, "-c", _LOADED, *verb.split(), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, loaded = done.stdout.rpartition("loaded:")
    return text, set(loaded.split())


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    text, loaded = help_of("")
    assert loaded & (HEAVY | {"pydantic"}) == set()
    for verb in ("demo", "train", "generate", "score", "estimate", "data", "recipe"):
        line = next(line for line in text.splitlines() if line.split()[:1] == [verb])
        assert len(line.split()) > 3, line  # what it does


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "train",
        "generate",
        "score",
        "estimate",
        "data",
        "data check",
        "data convert",
        "data label",
        "data captions",
        "data synpic",
        "recipe",
        "recipe list",
        "recipe copy",
    ],
)
def test_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    text, loaded = help_of(verb)
    assert f"Usage: palate {verb} [OPTIONS]" in text
    assert loaded & HEAVY == set()  # typer itself looks whether pydantic is there


def test_the_list_of_scorers_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, "score", "--list"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.rpartition("loaded:")[2].split()) & HEAVY == set()


def test_version() -> None:
    import palate

    done = subprocess.run([sys.executable, "-m", "palate", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{palate.__version__}\n")


def test_an_unknown_verb_and_option_are_the_users_mistakes() -> None:
    for arguments in (["trian"], ["train"], ["train", "x.yaml", "--fast"], ["generate", "m", "--images", "0"]):
        done = subprocess.run([sys.executable, "-m", "palate", *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
