"""Keep transformers' and the hub's progress bars and reports out of palate's output; an error says what matters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bar and no report from transformers within, and no word about each request that the hub does not answer."""
    before = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        hub_logging.set_verbosity(before[1])
        logging.enable_progress_bar()
