"""Stable Diffusion 2.x: OpenCLIP-H's text tower in place of CLIP-L, and v prediction in the 768-pixel checkpoints.

Both differences live in the checkpoint's own files (`text_encoder/config.json`, `scheduler_config.json`), so the family
shares SD1's functions. Never force `prediction_type: epsilon` on it: the 768-pixel networks answer with v.
"""

from __future__ import annotations

from dataclasses import replace

from .sd1 import SD1

SD2 = replace(SD1, name="sd2")
