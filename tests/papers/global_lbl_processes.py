"""What the processes of the data-parallel tests do; importable by name, as spawned processes need it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from papers.global_lbl.experiment import Kept
from papers.global_lbl.method import Balance, BalancedMoE, synchronised
from papers.global_lbl.model import GlobalLBLConfig, GlobalLBLForCausalLM
from repro.data.base import Batch
from repro.training.fit import batch_loss
from repro.training.initial import initialise
from repro.training.parallel import average_gradients

VOCAB, LENGTH, ROWS = 20, 6, 8


def tiny(**options) -> GlobalLBLForCausalLM:
    values = {"vocab_size": VOCAB, "hidden_size": 16, "num_attention_heads": 2, "n_routed_experts": 6,
              "moe_intermediate_size": 8, "balance_weight": 0.5, **options}  # fmt: skip
    return initialise(GlobalLBLForCausalLM(GlobalLBLConfig(**values)), 0, 0.3).train()


def rows() -> Batch:
    """Rows whose halves use different tokens, so that micro and global differ."""
    ids = torch.randint(0, VOCAB // 2, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    ids[ROWS // 2 :] += VOCAB // 2
    return Batch(ids[:, :-1], ids[:, 1:], torch.zeros(ROWS, LENGTH, dtype=torch.uint8))


def mine(batch: Batch, rank: int, processes: int) -> Batch:
    return Batch(*(part.chunk(processes)[rank] for part in batch))


def step(model: GlobalLBLForCausalLM, batch: Batch) -> dict[str, torch.Tensor]:
    """One backward pass: both losses and all gradients, averaged over the processes where there are several."""
    loss, auxiliary = batch_loss(model, batch)
    (loss + auxiliary).backward()
    average_gradients(model)
    return {"auxiliary": auxiliary.detach(), **{n: p.grad for n, p in model.named_parameters()}}


def train_step(scope: str) -> dict[str, torch.Tensor]:
    """This process's share of the rows, through the whole model."""
    return step(tiny(balance_scope=scope), mine(rows(), dist.get_rank(), dist.get_world_size()))


def kept_loads() -> tuple[torch.Tensor, torch.Tensor]:
    """The loads of all processes, before they are kept and in other models that take them up."""
    model, other = (tiny(gating="sigmoid", balance_scope="global") for _ in range(2))
    batch_loss(model, mine(rows(), dist.get_rank(), dist.get_world_size()))
    Kept(other).load_state_dict(Kept(model).state_dict())
    found = []
    for each in (model, other):
        layer = next(m for m in each.modules() if isinstance(m, BalancedMoE))
        found.append(synchronised(torch.cat(layer.loads).sum(0)))
    return found[0], found[1]


def buffered_counts() -> torch.Tensor:
    """Two passes of this process into one buffer: its counts after both."""
    balance = Balance(4, "buffer")
    for turn in range(2):
        indices = torch.tensor([[dist.get_rank()], [2 + turn]])
        balance(torch.full((2, 4), 0.25), indices)
    assert balance.buffer is not None
    return balance.buffer
