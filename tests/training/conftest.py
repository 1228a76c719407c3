import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"palate_training_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    return _load("toy")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A forked child would wait for the threads that OpenMP had in its parent."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[..., multiprocessing.Process]]:
    """Start a function in a forked process, its output in a file; forking saves the seconds that imports take."""
    children: list[multiprocessing.Process] = []

    def start(work: Callable[[], object], log: str = "child.log", **environment: str) -> multiprocessing.Process:
        def child() -> None:
            from accelerate.state import PartialState

            torch.set_num_threads(1)
            PartialState._reset_state()  # the parent's idea of how many processes there are
            os.environ.update(environment)
            descriptor = os.open(tmp_path / log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            work()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        children.append(process)
        return process

    yield start
    for child in children:
        child.kill()
