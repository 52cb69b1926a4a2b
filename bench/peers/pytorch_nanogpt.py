#!/usr/bin/env python3
"""PyTorch trains the `nanogpt` recipe: how much of a difference from its stated figure is ours, and how much the estimate's?

usage: pytorch_nanogpt.py TEXT [--seeds 1337 1 2] [--threads 2]      needs PyTorch; nothing of it is vendored here

The network, schedule, batches at random places and 90/10 split of recipes/nanogpt.toml, which are those of nanoGPT's
shakespeare-char on a CPU. Prints one JSON object a seed:
  "whole"      the loss over the validation part, cut into windows of 64 that do not overlap (what Lyceum reports)
  "estimate"   what nanoGPT prints: the mean of 20 random batches of 12 windows; here the mean and the standard
               deviation of 200 such estimates, and the least of them
"""

import argparse
import json
import math
import os
import statistics

parser = argparse.ArgumentParser()
parser.add_argument("text")
parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1, 2])
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is loaded

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(args.threads)
LAYERS, HEADS, D, CONTEXT, BATCH, STEPS, WARMUP = 4, 4, 128, 64, 12, 2000, 100


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(D, bias=False)
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.out = nn.Linear(D, D, bias=False)
        self.norm2 = nn.LayerNorm(D, bias=False)
        self.up = nn.Linear(D, 4 * D, bias=False)
        self.down = nn.Linear(4 * D, D, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (z.view(B, T, HEADS, D // HEADS).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(D, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, D)
        self.position = nn.Embedding(CONTEXT, D)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D, bias=False)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def loss(self, x, y):
        h = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = layer(h)
        logits = F.linear(self.norm(h), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def windows(ids, starts):
    return (
        torch.stack([ids[s : s + CONTEXT] for s in starts]),
        torch.stack([ids[s + 1 : s + 1 + CONTEXT] for s in starts]),
    )


def random_batch(ids):
    return windows(ids, torch.randint(len(ids) - CONTEXT, (BATCH,)).tolist())


def learning_rate(step):
    if step < WARMUP:
        return 1e-3 * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (STEPS - WARMUP)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * (1e-3 - 1e-4)


def run(seed, train, valid, vocabulary):
    torch.manual_seed(seed)
    model = Gpt(vocabulary)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        fused=True,
    )
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        model.loss(*random_batch(train)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        starts = list(range(0, len(valid) - CONTEXT, CONTEXT))
        total = 0.0
        for i in range(0, len(starts), 64):
            part = starts[i : i + 64]
            total += model.loss(*windows(valid, part)).item() * len(part)
        estimates = [
            statistics.fmean(model.loss(*random_batch(valid)).item() for _ in range(20)) for _ in range(200)
        ]
    return {
        "seed": seed,
        "whole": round(total / len(starts), 4),
        "estimate": {
            "mean": round(statistics.fmean(estimates), 4),
            "sd": round(statistics.stdev(estimates), 4),
            "least": round(min(estimates), 4),
        },
    }


text = open(args.text, encoding="utf-8").read()
names = sorted(set(text))
ids = torch.tensor([names.index(c) for c in text])
cut = int(0.9 * len(ids))
for seed in args.seeds:
    print(json.dumps(run(seed, ids[:cut], ids[cut:], len(names))), flush=True)
