"""Diffusion-DPO with a LoRA on Stable Diffusion 3 in plain PyTorch, on one GPU: palate's parts and no framework.

    python examples/train_sd3_dpo.py --data pairs --output sd3-dpo
    python examples/train_sd3_dpo.py --model tiny-sd3 --data pairs --output out --steps 20 --batch-size 16

No settings are official for flow models. beta, learning rate and LoRA are Flow-Factory's example's for SD3.5, where
ten times the rate collapses; 64 pairs a step are Flow-DPO's (arXiv 2501.13918). Times are logit-normal, shifted as the
checkpoint's scheduler says; both pictures of a pair share time and noise, and beta is the same at all times.
"""

import argparse
from functools import partial

import torch

from palate.objectives import dpo
from palate.t2i.method import Method
from palate.t2i.models.checkpoint import find_checkpoint
from palate.t2i.models.model import TextToImageModel
from palate.t2i.models.policy import LoraPolicy, LoraSettings
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig
from palate.t2i.task import AlignmentTask
from palate.training.loader import batches
from palate.training.order import MicroBatches, Shares

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="stabilityai/stable-diffusion-3-medium-diffusers")
parser.add_argument("--data", required=True, help="pairs, in any format that `palate data convert` reads")
parser.add_argument("--output", required=True)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch-size", type=int, default=64, help="pairs a step, a multiple of 2")
args = parser.parse_args()

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
half = torch.bfloat16 if device.type == "cuda" else None  # frozen weights and arithmetic; the LoRA is float32 always
checkpoint = find_checkpoint(args.model, family="sd3")
model = TextToImageModel(checkpoint, half or torch.float32, device)
method = Method("diffusion_dpo", objective=partial(dpo, beta=100.0))
prepared = prepare(model, DataConfig(path=args.data, cache="cache"), method, seed=0)
torch.manual_seed(0)  # where the LoRA starts; every other draw follows from the task's seed
policy = LoraPolicy(model.network, checkpoint, LoraSettings(rank=32, alpha=64))
task = AlignmentTask(model, policy, method, prepared, seed=0, autocast=half)

weights = [weight for weight in task.network.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(weights, lr=1e-5)
shares = Shares(args.batch_size, micro_batch=2)
order = MicroBatches(0, task.groups, shares, rank=0, start=0, stop=args.steps)
for number, batch in enumerate(batches(task, order, workers=2, device=device), start=1):
    loss, metrics = task.loss(batch)
    (loss / shares.accumulation).backward()
    if number % shares.accumulation == 0:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step(), optimizer.zero_grad()
        gains = ", ".join(f"{name} {metrics[name]:+.1e}" for name in ("winner_gain", "loser_gain"))
        print(f"step {number // shares.accumulation}: loss {loss:.4f}, {gains}")
policy.save(args.output)  # `load_lora_weights` opens the folder
