"""Diffusion-DPO with a LoRA on SDXL, on one GPU or many, in a loop of your own: every part of it is yours to replace.

    accelerate launch examples/train_sdxl_dpo.py --data pairs --output sdxl-dpo
    python examples/train_sdxl_dpo.py --model tiny-sdxl --data pairs --output out --steps 20 --batch-size 16

beta, optimizer, batch, warm-up and caption dropout are the authors' for SDXL (arXiv 2311.12908 and their launcher),
who tune all weights. `palate train` does the same and also resumes, validates, draws samples and logs.
"""

import argparse
from functools import partial

import torch
from accelerate import Accelerator
from transformers.optimization import Adafactor

from palate.objectives import dpo
from palate.t2i.align import make_policy, open_model
from palate.t2i.method import Method
from palate.t2i.prepare import prepare
from palate.t2i.recipe import DataConfig, ModelConfig
from palate.t2i.task import AlignmentTask
from palate.training.loader import batches
from palate.training.order import MicroBatches, Shares

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="stabilityai/stable-diffusion-xl-base-1.0")
parser.add_argument("--data", required=True, help="pairs, in any format that `palate data convert` reads")
parser.add_argument("--output", required=True)
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--batch-size", type=int, default=2048, help="pairs a step over all GPUs, a multiple of 4 for each")
args = parser.parse_args()

half = torch.bfloat16 if torch.cuda.is_available() else None
accelerator = Accelerator(mixed_precision="bf16" if half else "no")
config = ModelConfig(path=args.model, family="sdxl")  # LoRA of rank 16 on the attention projections
model = open_model(config, accelerator.mixed_precision, accelerator.device)
method = Method("diffusion_dpo", objective=partial(dpo, beta=5000.0))
with accelerator.main_process_first():  # it encodes pictures and prompts, the others find them in the cache
    prepared = prepare(model, DataConfig(path=args.data, cache="cache"), method, seed=0)
policy = make_policy(model, config, seed=0)
task = AlignmentTask(model, policy, method, prepared, seed=0, caption_dropout=0.2, autocast=half)

weights = [weight for weight in task.network.parameters() if weight.requires_grad]
optimizer = Adafactor(weights, lr=2.048e-5, scale_parameter=False, relative_step=False)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 10 * (step + 1) / args.steps))
task.network, optimizer = accelerator.prepare(task.network, optimizer)
shares = Shares(args.batch_size, micro_batch=4, processes=accelerator.num_processes)
order = MicroBatches(0, task.groups, shares, accelerator.process_index, start=0, stop=args.steps)
for number, batch in enumerate(batches(task, order, workers=2, device=accelerator.device), start=1):
    loss, metrics = task.loss(batch)
    accelerator.backward(loss / shares.accumulation)
    if number % shares.accumulation == 0:
        accelerator.clip_grad_norm_(weights, 1.0)
        optimizer.step(), optimizer.zero_grad(), warmup.step()
        gains = ", ".join(f"{name} {metrics[name]:+.1e}" for name in ("winner_gain", "loser_gain"))
        accelerator.print(f"step {number // shares.accumulation}: loss {loss:.4f}, {gains}")
if accelerator.is_main_process:
    policy.save(args.output)  # `load_lora_weights` opens the folder
