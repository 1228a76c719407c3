"""The speed of a Diffusion-DPO step: palate against a plain loop, in turns, in one run.

    python benchmarks/dpo_step.py --model tiny-sdxl
    python benchmarks/dpo_step.py --model sdxl --resolution 1024 --pairs 8 --compile    # random weights, needs a GPU

palate's side is what `palate train` does, step by step: items from the prepared cache, the task's loss, the loop's own
optimizer step and log. The plain side does what the usual research script does in every step: it decodes the pictures
in the training process, encodes them and the prompts, runs the eager network, and switches the adapter off for the
reference. A busy machine stretches seconds but hardly CPU seconds: on a CPU the ratio is one of CPU seconds. Peak
memory on a CPU is the process's resident set, libraries and palate's preparation included.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.functional as TF
from inputs import FULL_SIZE, open_checkpoint, write_pairs
from peft import LoraConfig
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turns import Step, Turn, take_turns

from palate.datasets.parquet import read_groups
from palate.t2i.align import compile_blocks, make_policy
from palate.t2i.estimate import flops_per_pair
from palate.t2i.method import Method
from palate.t2i.methods import DiffusionDPO
from palate.t2i.models.architectures import find_architecture
from palate.t2i.models.family import Framing
from palate.t2i.models.policy import LoraSettings
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, ModelConfig
from palate.t2i.task import AlignmentTask
from palate.t2i.workload import Workload
from palate.training.config import TrainingConfig
from palate.training.loader import batches
from palate.training.loop import _log, _optimise  # the real step, not a copy of it
from palate.training.mfu import peak_flops, utilisation
from palate.training.order import MicroBatches, Shares
from palate.training.processes import start_accelerator
from palate.training.run import prepared
from palate.training.run_folder import RunFolder

BETA, LEARNING_RATE = 5000.0, 1e-5
GROUPS = 64


@dataclass(frozen=True)
class Job:
    """What both sides do; `pairs` is the batch of a step, in one micro-batch."""

    model: str
    resolution: int
    pairs: int
    rank: int
    threads: int
    workers: int
    compile: bool
    checkpointing: str
    scratch: str

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


@contextmanager
def palate_side(job: Job) -> Iterator[Step]:
    """A step of palate's training loop."""
    with training(job, DiffusionDPO(beta=BETA).build(elements=1)) as (step, _):  # read for summed errors only
        yield step


@contextmanager
def training(job: Job, method: Method) -> Iterator[tuple[Step, AlignmentTask]]:
    """A step of palate's training loop with `method` on the pairs in the job's scratch folder, and its task."""
    folder = Path(job.scratch)
    model = open_checkpoint(job.model, job.dtype, job.device, folder / "palate")
    data = DataConfig(path=str(folder / "pairs"), cache=str(folder / "cache"), resolution=job.resolution)
    ready = prepare(model, data, method, seed=0, say=lambda line: None)
    model.free("vae")
    policy = make_policy(model, ModelConfig(path=job.model, lora=LoraSettings(rank=job.rank)), seed=0)
    network: Any = policy.network
    if job.checkpointing == "both":
        network.enable_gradient_checkpointing()
    if job.compile:
        compile_blocks(network)
    autocast = torch.bfloat16 if job.dtype == torch.bfloat16 else None
    task = AlignmentTask(model, policy, method, ready, seed=0, micro_batch=job.pairs, autocast=autocast)
    config = TrainingConfig(
        batch_size=job.pairs,
        micro_batch=job.pairs,
        learning_rate=LEARNING_RATE,
        precision="bf16" if autocast else "no",
        workers=job.workers,
        threads=job.threads,
    )
    accelerator, shares = start_accelerator(config), Shares(job.pairs, job.pairs)
    order = MicroBatches(config.seed, task.groups, shares, rank=0, start=0, stop=sys.maxsize)
    with (
        prepared(task, config, RunFolder(folder / "run"), accelerator, shares) as run,
        closing(batches(task, order, config.workers, accelerator.device)) as stream,
    ):

        def step() -> None:
            _optimise(run, stream)
            if run.step % config.log_every == 0:
                _log(run)

        yield step, task


@contextmanager
def plain_side(job: Job) -> Iterator[Step]:
    """A step as research scripts write it; where they err in the maths, this does not."""
    model = open_checkpoint(job.model, job.dtype, job.device, Path(job.scratch) / "plain")
    text, vae, family = model.text, model.vae, model.family
    network: Any = model.network
    targets = list(family.lora_targets)
    adapter = LoraConfig(r=job.rank, lora_alpha=job.rank, init_lora_weights="gaussian", target_modules=targets)
    network.add_adapter(adapter)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    if job.checkpointing != "none":
        network.enable_gradient_checkpointing()
    network.train()
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    stream = _pixels(job)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor  # type: ignore[attr-defined]
        parts = [vae.encode(part).latent_dist.sample() for part in pixels.split(8)]  # type: ignore[union-attr]
        return (torch.cat(parts) - shift) * scale

    def step() -> None:
        pixels, prompts, framings = next(stream)
        with torch.no_grad():
            latents = encode(pixels.to(job.device, vae.dtype)).to(job.dtype)  # [2B, C, h, w]: winners, then losers
            encoded = family.encode_prompts(text, prompts)
        hints = {name: torch.cat([value, value]) for name, value in encoded.items()}
        hints |= {name: value.to(job.device) for name, value in family.size_conditions(framings).items()}
        noise = torch.randn_like(latents[: job.pairs]).repeat(2, 1, 1, 1)
        times = model.process.draw_times(job.pairs, torch.default_generator).repeat(2).to(job.device)
        noisy, target = model.process.corrupt(latents, noise, times), model.process.target(latents, noise, times)

        def errors() -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(job.device.type, job.dtype, enabled=job.dtype == torch.bfloat16):
                predicted = family.predict(network, noisy, times, hints)
            squared = F.mse_loss(predicted.float(), target.float(), reduction="none")
            return squared.mean(dim=(1, 2, 3)).chunk(2)  # type: ignore[return-value]

        winner, loser = errors()
        with torch.no_grad():
            network.disable_adapters()
            reference_winner, reference_loser = errors()
            network.enable_adapters()
        logits = -0.5 * BETA * ((winner - loser) - (reference_winner - reference_loser))
        loss = -F.logsigmoid(logits).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _ = loss.item(), (logits > 0).float().mean().item()  # logged in every step

    yield step


def _pixels(job: Job) -> Iterator[tuple[torch.Tensor, list[str], list[Framing]]]:
    """Batches of pixels `[2B, 3, H, W]`, winners first, decoded in this process; prompts `[B]`; framings `[2B]`."""
    side = job.resolution

    def load(data: bytes) -> tuple[torch.Tensor, Framing]:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        framing = Framing((picture.height, picture.width), (0, 0), (side, side))
        resized = TF.center_crop(TF.resize(picture, side), [side, side])  # type: ignore[arg-type]
        return TF.normalize(TF.to_tensor(resized), [0.5], [0.5]), framing

    def collate(groups: list[Any]) -> tuple[torch.Tensor, list[str], list[Framing]]:
        loaded = [load(group.candidates[i]) for i in (0, 1) for group in groups]
        return torch.stack([pixels for pixels, _ in loaded]), [g.prompt for g in groups], [f for _, f in loaded]

    groups: Any = list(read_groups(Path(job.scratch) / "pairs"))
    loader = DataLoader(groups, job.pairs, shuffle=True, drop_last=True, collate_fn=collate)
    return (batch for _ in count() for batch in loader)


SIDES = {"palate": palate_side, "plain": plain_side}


def summarise(job: Job, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Medians with their range, and the ratio of each turn of palate's to the plain loop's next one."""
    cuda = job.device.type == "cuda"
    peak, flops = peak_flops(job.device), None
    if cuda and peak:
        architecture = find_architecture(FULL_SIZE.get(job.model, job.model))
        flops = flops_per_pair(Workload(architecture, job.resolution, rank=job.rank, images=2 * job.pairs))
    sides: dict[str, Any] = {}
    for side, taken in turns.items():
        speed = spread([job.pairs / turn.seconds for turn in taken])
        sides[side] = {
            "pairs_per_second": speed,
            "cpu_seconds_per_step": spread([turn.cpu_seconds for turn in taken]),
            "peak_memory_gib": max(turn.peak_gib for turn in taken),
            "mfu": utilisation(flops, speed["median"], peak, processes=1) if flops and peak else None,
        }
    basis = "seconds" if cuda else "cpu_seconds"
    pairs = zip(turns["palate"], turns["plain"], strict=True)
    ratios = [getattr(plain, basis) / getattr(ours, basis) for ours, plain in pairs]
    return {
        "job": {name: value for name, value in asdict(job).items() if name != "scratch"},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        **sides,
        "ratio": {"of": basis, **spread(ratios)},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def show(result: dict[str, Any]) -> None:
    """Print the result for people."""
    job = result["job"]
    print(f"{job['model']} at {job['resolution']} pixels on {result['device']}, {job['pairs']} pairs a step, ", end="")
    print(f"LoRA rank {job['rank']}, {job['threads']} thread(s), {job['workers']} data worker(s)")
    print(f"{'':8}{'pairs/s':>28}{'CPU-s/step':>28}{'peak GiB':>10}{'MFU':>8}")
    for side in SIDES:
        row = result[side]
        mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
        speed, cpu = span(row["pairs_per_second"]), span(row["cpu_seconds_per_step"])
        print(f"{side:8}{speed:>28}{cpu:>28}{row['peak_memory_gib']:>10.2f}{mfu:>8}")
    print(f"palate is {span(result['ratio'])} times as fast by {result['ratio']['of'].replace('_', ' ')}")


def span(spread: dict[str, float]) -> str:
    """For people, what `spread` gives."""
    return f"{spread['median']:.3g} ({spread['low']:.3g} to {spread['high']:.3g})"


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-sdxl", help=f"a checkpoint, or random weights: {', '.join(FULL_SIZE)}")
    parser.add_argument("--resolution", type=int, help="pixels a side; the checkpoint's own where it is left out")
    parser.add_argument("--pairs", type=int, default=16, help="pairs a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--workers", type=int, default=2 if cuda else 0, help="palate's data workers; 0: CPU time counts"
    )
    parser.add_argument("--compile", action="store_true", help="palate's side: compile the network's blocks")
    parser.add_argument("--checkpointing", choices=("none", "plain", "both"), default="none")
    parser.add_argument("--force", action="store_true", help="run a full-size model without a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = vars(parser.parse_args())
    if options["model"] in FULL_SIZE and not (cuda or options["force"]):
        parser.error(f"{options['model']} has full size and there is no GPU; --force takes hours and much memory")
    rounds, steps, as_json, _ = (options.pop(name) for name in ("rounds", "steps", "json", "force"))
    architecture = find_architecture(FULL_SIZE.get(options["model"], options["model"]))
    options["resolution"] = options["resolution"] or architecture.resolution
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(**options, scratch=scratch)
        write_pairs(Path(scratch) / "pairs", max(GROUPS, 2 * job.pairs), job.resolution)
        result = summarise(job, take_turns(SIDES, job, job.threads, rounds, steps))
    print(json.dumps(result, indent=2)) if as_json else show(result)


if __name__ == "__main__":
    main()
