"""One of the processes of test_processes: python objective_process.py NAME RANK WORLD STORE ROWS, where ROWS is JSON.

NAME is an objective; ROWS holds each rank's [policy, reference, labels]. Prints loss, shared statistic and gradient as
JSON.
"""

import json
import sys

import torch
import torch.distributed as dist

from palate.objectives import OBJECTIVES

SHARED = {"kto": "reference_point", "em_dpo": "flip_rate"}


def main(name: str, rank: int, world: int, store: str, rows: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    policy, reference, labels = (torch.tensor(values, dtype=torch.float64) for values in json.loads(rows)[rank])
    policy.requires_grad_()
    loss, metrics = OBJECTIVES[name](policy, reference, labels, beta=2.0)
    (gradient,) = torch.autograd.grad(loss, policy)
    result = {"loss": loss.item(), "shared": metrics[SHARED[name]].item(), "gradient": gradient.tolist()}
    dist.destroy_process_group()
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
