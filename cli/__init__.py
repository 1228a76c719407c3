"""The `palate` command: one file a verb, no logic; heavy imports wait inside the verbs, so that help is instant."""

from __future__ import annotations

import errno
import re
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import typer

from .. import __version__
from ..errors import PalateError
from . import data, demo, estimate, generate, recipe, score, train

_PACKAGE = Path(__file__).parents[1]
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}

app = typer.Typer(
    help="Teach generative models taste: align them with preferences, score them, collect the votes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo_command)
app.command("train")(train.train_command)
app.command("generate")(generate.generate_command)
app.command("score")(score.score_command)
app.command("estimate")(estimate.estimate_command)
app.add_typer(data.app, name="data")
app.add_typer(recipe.app, name="recipe")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    """Teach generative models taste: align them with preferences, score them, collect the votes."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; what stops it on purpose, or from outside, is one line on stderr and an exit code."""
    warnings.formatwarning = _one_line
    try:
        app(prog_name="palate")
    except PalateError as error:
        _leave(str(error), error.exit_code)
    except (OSError, MemoryError, RuntimeError) as error:
        told = _from_outside(error)
        if told is None:
            raise
        _leave(told, PalateError.exit_code)


def _leave(line: str, code: int) -> NoReturn:
    print(f"palate: {line}", file=sys.stderr)
    sys.exit(code)


def _from_outside(error: OSError | MemoryError | RuntimeError) -> str | None:
    """What the machine refused, in one line; None for an error that is a fault of the program."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        told = error.errno in _REFUSALS
        return f"{error.strerror}{where}; make room or name another place, then run it again" if told else None
    # torch's own error on a GPU is a RuntimeError, and the CPU's allocator raises no more than that.
    if isinstance(error, MemoryError) or re.search("out of memory|allocate memory|enough memory", str(error)):
        return "out of memory; take a smaller batch, a smaller resolution, or weights in bfloat16"
    if "home directory" in str(error):  # a path such as ~nobody/weights
        return "a path begins with ~ and a name that is no user of this machine; write it out"
    return None


def _one_line(message: Warning | str, category: type[Warning], file: str, line: int, text: str | None = None) -> str:
    """Warnings of palate's as a person reads them; those of other libraries as Python writes them."""
    if Path(file).is_relative_to(_PACKAGE):
        return f"palate: warning: {message}\n"
    return f"{file}:{line}: {category.__name__}: {message}\n"
