"""Finding a diffusers checkpoint, telling its family, and loading its parts one at a time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from .family import Family
from .hub_ids import NO_FLUX, hint, is_counted_only, official
from .sd1 import SD1
from .sd2 import SD2
from .sd3 import SD3
from .sdxl import SDXL

FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL, SD3)}
BUILT_IN = {"tiny-sdxl": "sdxl", "tiny-sd3": "sd3"}  # shipped in palate/t2i/tiny
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))  # fast, CLIP's, T5's
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(.+?))?(?:-\d+-of-\d+)?\.safetensors")
_SD2_TEXT_WIDTH = 1024  # SD2's cross attention reads OpenCLIP-H (1024); SD1's reads CLIP-L (768)


@dataclass(frozen=True)
class Checkpoint:
    """A diffusers checkpoint that has been identified but not loaded. `path` is a folder or a hub id."""

    path: str
    family: Family
    index: dict[str, Any]
    revision: str | None = None
    variant: str | None = None

    def config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """A part's configuration, such as `scheduler/scheduler_config.json`; a key that is not there is a UserError."""
        return _read_json(self.path, f"{part}/{file}", self.revision)

    def require_whole(self) -> None:
        """Look at the weights of every part without loading them.

        A file that was cut while it was copied is told by its own header: better now than after hours of encoding.
        A checkpoint on the hub is left to the hub.

        Raises UserError for a part that is missing, a file that is cut or damaged, or weights in another format.
        """
        needed = {"vae", "scheduler", self.family.network, *self.family.text_encoders, *self.family.tokenizers}
        optional = {"text_encoder_3", "tokenizer_3"}  # SD3 was trained to do without T5
        if absent := sorted(part for part in needed - optional if not self.has(part)):
            raise UserError(f"{self.path}/model_index.json names no {', '.join(absent)}; is the checkpoint whole?")
        folder = Path(self.path)
        if not folder.is_dir():
            return
        for part in ("vae", self.family.network, *filter(self.has, self.family.text_encoders)):
            self._require_whole_weights(part)
        if self.variant and not any(map(self.variant_of, ("vae", self.family.network, *self.family.text_encoders))):
            raise UserError(f"{self.path} has no weights of the variant {self.variant}; leave the variant out")
        for part in filter(self.has, self.family.tokenizers):
            _require_vocabulary(folder / part)

    def variant_of(self, part: str) -> str | None:
        """The variant of a part's files: the checkpoint's where the part has it, else, as in diffusers, none."""
        folder = Path(self.path) / part
        there = not folder.is_dir() or any(_variant(file) == self.variant for file in _weights(folder))
        return self.variant if there else None

    def weight_files(self, part: str) -> list[Path]:
        """The safetensors files of a local checkpoint's part that are loaded."""
        variant = self.variant_of(part)
        return [file for file in _weights(Path(self.path) / part) if _variant(file) == variant]

    def _require_whole_weights(self, part: str) -> None:
        folder, files = Path(self.path) / part, self.weight_files(part)
        if not files:
            others = sorted({_variant(file) or "none" for file in _weights(folder)})
            if not others:
                raise UserError(f"{folder} holds no weights in safetensors; palate opens no pickled ones")
            raise UserError(
                f"{folder} holds weights of the variant {', '.join(others)}, not {self.variant or 'none'}: "
                f"name it (in a recipe model.variant={others[0]}, else --variant)"
            )
        shards = {shard for index in folder.glob(_index_of(self.variant_of(part))) for shard in _shards(index)}
        if absent := sorted(shards - {file.name for file in files}):
            raise UserError(f"{folder} lacks {absent[0]}, which its index names; copy it again")
        for file in files:
            size, expected = file.stat().st_size, _expected_size(file)
            if expected is None:
                raise UserError(f"{file} is damaged: its first bytes are no safetensors header; copy it again")
            if size != expected:
                raise UserError(f"{file} is cut short or damaged: {size} bytes instead of {expected}; copy it again")

    def has(self, part: str) -> bool:
        """Whether the checkpoint holds a part; SD3 may come without its third text encoder."""
        return bool(self.index.get(part) and self.index[part][0])


def find_checkpoint(
    path: str, family: str | None = None, revision: str | None = None, variant: str | None = None
) -> Checkpoint:
    """Identify a checkpoint by its `model_index.json`.

    Args:
        path: a folder, a hub id, a name in `HUB_IDS`, or a built-in one (`tiny-sdxl`, `tiny-sd3`).
        family: what the caller takes it for; None accepts any family that palate knows.

    Raises:
        UserError: it is not a diffusers checkpoint, cannot be reached, or is of another family.
    """
    if path in BUILT_IN:
        path = str(Path(__file__).parents[1] / "tiny" / BUILT_IN[path])
    if path.startswith("~"):
        path = str(Path(path).expanduser())  # diffusers would take the `~` for a folder's name
    if is_counted_only(path):
        raise UserError(f"{path}: {NO_FLUX}")
    path = official(path)
    index = _read_json(path, "model_index.json", revision)
    pipeline = index.get("_class_name", "?")
    candidates = [known for known in FAMILIES.values() if known.pipeline == pipeline]
    if not candidates:
        supported = ", ".join(sorted({known.pipeline for known in FAMILIES.values()}))
        raise UserError(f"{path} is a {pipeline}, which palate does not train; it trains {supported}")
    found = candidates[0]
    if len(candidates) > 1:
        width = _read_json(path, "unet/config.json", revision).get("cross_attention_dim")
        found = SD2 if width == _SD2_TEXT_WIDTH else SD1
    if family is not None and family not in FAMILIES:
        raise UserError(f"model.family: {family!r} is unknown; palate knows {', '.join(FAMILIES)}")
    if family is not None and family != found.name:
        raise UserError(f"model.family says {family}, but {path} is of family {found.name}; drop the key or correct it")
    return Checkpoint(path, found, index, revision, variant)


class _Keys(dict[str, Any]):
    """A JSON object of a checkpoint; asking it for a key that it has not is the checkpoint's fault, not ours."""

    def __init__(self, values: dict[str, Any], file: str | Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.file} has no {key}; is it the file that diffusers wrote?")


def _weights(folder: Path) -> list[Path]:
    """A part's files under the names that diffusers and transformers give them, of all variants."""
    return sorted(file for file in folder.glob("*.safetensors") if _WEIGHTS.fullmatch(file.name))


def _variant(file: Path) -> str | None:
    """`fp16` of `model.fp16.safetensors` and `model.fp16-00001-of-00002.safetensors`."""
    match = _WEIGHTS.fullmatch(file.name)
    return match[1] if match else None


def _index_of(variant: str | None) -> str:
    return f"*.safetensors.index.{variant}.json" if variant else "*.safetensors.index.json"


def _require_vocabulary(folder: Path) -> None:
    """transformers opens a tokenizer without its words and says nothing; every word is then the unknown one."""
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        known = ", ".join(" with ".join(names) for names in _VOCABULARIES)
        raise UserError(f"{folder} holds no vocabulary (one of {known}); copy it again")


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is damaged; copy it again") from None


def _expected_size(file: Path) -> int | None:
    """The length that a safetensors header gives its file, bytes; None if there is no header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= file.stat().st_size - 8:
            return None
        try:
            tensors = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None


def _read_json(path: str, name: str, revision: str | None) -> dict[str, Any]:
    folder = Path(path)
    if folder.is_dir():
        file = folder / name
        if not file.is_file():
            raise UserError(
                f"{path} is not a diffusers folder: it has no {name} (a single-file checkpoint is turned into one by "
                "diffusers' DiffusionPipeline.from_single_file(...).save_pretrained(...))"
            )
    elif folder.exists():
        raise UserError(f"{path} is a file; palate takes a diffusers folder (one with model_index.json) or a hub id")
    else:
        file = _download(path, name, revision)
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{file} is not valid JSON (it is no text); is the file damaged?") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not valid JSON ({error.msg} in line {error.lineno}); is the file cut short?"
        ) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object; is it the file that diffusers wrote?")
    return _Keys(values, file)


def _download(path: str, name: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from ...rewards.quiet import quiet

    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local:
        raise UserError(f"there is no folder {path}")
    told = f"there is no folder {path}{hint(path, BUILT_IN)}"
    try:
        with quiet():
            return hf_hub_download(path, name, revision=revision)
    except HFValidationError:
        raise UserError(f"{told}, and it is no hub id (owner/name) either") from None
    except LocalEntryNotFoundError:
        raise UserError(f"{told}, and the Hugging Face hub cannot be reached to look for it") from None
    except EntryNotFoundError:
        raise UserError(f"the hub's {path} has no {name}: it is not a diffusers checkpoint") from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{told}, and the hub refused it: {str(error).splitlines()[0]}") from None
