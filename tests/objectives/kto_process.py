"""One of the processes of test_kto: python kto_process.py RANK WORLD STORE ROWS, where ROWS is JSON.

ROWS holds each rank's [policy, reference, labels]; prints loss, reference point and gradient as JSON.
"""

import json
import sys

import torch
import torch.distributed as dist

from palate.objectives import kto


def main(rank: int, world: int, store: str, rows: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    policy, reference, labels = (torch.tensor(values, dtype=torch.float64) for values in json.loads(rows)[rank])
    policy.requires_grad_()
    loss, metrics = kto(policy, reference, labels, beta=2.0)
    (gradient,) = torch.autograd.grad(loss, policy)
    result = {"loss": loss.item(), "z0": metrics["reference_point"].item(), "gradient": gradient.tolist()}
    dist.destroy_process_group()
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
