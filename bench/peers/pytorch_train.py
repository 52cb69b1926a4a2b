#!/usr/bin/env python3
"""PyTorch as the peer of `lyceum bench train`: one JSON object a line in, one a line out.

usage: pytorch_train.py [--threads 2]        needs PyTorch, and safetensors for `check`; nothing of it is vendored here

On start it prints {"event":"ready","torch","threads","rss_bytes"}. Then, one line each:
  {"work":"gpt_small","precision":"f32"}            builds it, warms up, picks the faster of eager and torch.compile
                                                    ("compile":false leaves the second out)
  {"run":"gpt_small","precision":"f32","steps":5}   times single steps; the caller interleaves these with its own
  {"check":"gpt_small","steps":50,"path":"x.safetensors"}
                                                    writes start weights and batches (`init.NAME`, `batch.NAME`, names as in
                                                    fixtures/README.md) and trains from them in f32: the losses to agree with;
                                                    "losses_exact" are those in f64, which tell how far rounding alone leads
  {"drop":"gpt_small","precision":"f32"}            frees it
  {"quit":true}
Answers carry "seconds" (the median), "samples", "mode", "peak_rss_bytes" (of this process: start one for each work to
compare memory), or {"error"}. The works, all from seed 0, AdamW fused with weight decay on matrices only:
  matmul      1024×1024×1024, the faster of a·b (nn) and a·bᵀ (nt)               (f32, bf16)
  gpt_small   4 layers, 4 heads, d 128, T 64, B 12, V 65; no bias, tied head    (f32, bf16 = autocast)
  gpt_medium  6 layers, 6 heads, d 384, T 256, B 16, V 65; the same
  mlp         784-512-256-10, relu, B 128
  cnn         conv 3×3 1→32, 32→64, each relu and max pool 2, 3136-128-10, 28×28, B 128
  lstm        64 inputs, hidden 128, 64 steps, last state → 10 classes, B 64
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
THREADS = parser.parse_args().threads
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before torch is loaded

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(THREADS)
BATCHES = 4  # different ones, so that no step repeats the one before
CHOICE_STEPS = 5


# ---------------------------------------------------------------- models, under the project's parameter names


class SelfAttention(nn.Module):
    def __init__(self, d_model, nhead):
        super().__init__()
        self.in_proj_weight = nn.Parameter(0.02 * torch.randn(3 * d_model, d_model))
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.nhead = nhead

    def forward(self, x):
        B, T, C = x.shape
        qkv = F.linear(x, self.in_proj_weight).split(C, 2)
        q, k, v = [z.view(B, T, self.nhead, C // self.nhead).transpose(1, 2) for z in qkv]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, nhead):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model, bias=False)
        self.self_attn = SelfAttention(d_model, nhead)
        self.norm2 = nn.LayerNorm(d_model, bias=False)
        self.linear1 = nn.Linear(d_model, 4 * d_model, bias=False)
        self.linear2 = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x):
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, layers, nhead, d_model, context, vocabulary=65):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.position = nn.Embedding(context, d_model)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(Block(d_model, nhead) for _ in range(layers))
        self.decoder.norm = nn.LayerNorm(d_model, bias=False)
        for p in self.parameters():
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, x):
        h = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        for layer in self.decoder.layers:
            h = layer(h)
        return F.linear(self.decoder.norm(h), self.embedding.weight)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(784, 512), nn.Linear(512, 256)])
        self.output = nn.Linear(256, 10)

    def forward(self, x):
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.output(x)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)])
        self.hidden = nn.ModuleList([nn.Linear(3136, 128)])
        self.output = nn.Linear(128, 10)

    def forward(self, x):
        for conv in self.conv:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.output(F.relu(self.hidden[0](x.flatten(1))))


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(64, 128, batch_first=True)
        self.output = nn.Linear(128, 10)

    def forward(self, x):
        return self.output(self.rnn(x)[1][0][-1])


def tokens(b, t):
    return lambda: (torch.randint(0, 65, (b, t)), torch.randint(0, 65, (b, t)))


def classes(*shape):
    return lambda: (torch.randn(*shape), torch.randint(0, 10, (shape[0],)))


TRAINED = {
    "gpt_small": (lambda: Gpt(4, 4, 128, 64), tokens(12, 64), 0.1),
    "gpt_medium": (lambda: Gpt(6, 6, 384, 256), tokens(16, 256), 0.1),
    "mlp": (Mlp, classes(128, 784), 0.01),
    "cnn": (Cnn, classes(128, 1, 28, 28), 0.01),
    "lstm": (Lstm, classes(64, 64, 64), 0.01),
}
LR, BETAS, EPS = 1e-3, (0.9, 0.99), 1e-8


# ---------------------------------------------------------------- works


def build(name):
    """Module, optimiser and batches of a work, the same at every call."""
    make, batch, weight_decay = TRAINED[name]
    torch.manual_seed(0)
    module = make().train()
    batches = [batch() for _ in range(BATCHES)]
    groups = [
        dict(params=[p for p in module.parameters() if p.dim() >= 2], weight_decay=weight_decay),
        dict(params=[p for p in module.parameters() if p.dim() < 2], weight_decay=0.0),
    ]
    return module, torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True), batches


def stepper(name, precision, compiled):
    """A function of no argument that makes one optimiser step and returns the loss as a tensor."""
    module, optimizer, batches = build(name)
    if precision == "f64":
        module.double()
        batches = [(x.double() if x.is_floating_point() else x, y) for x, y in batches]
    forward = torch.compile(module) if compiled else module
    at = 0

    def step():
        nonlocal at
        x, y = batches[at % BATCHES]
        at += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(x)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def product(precision, transposed):
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    torch.manual_seed(0)
    a, b = torch.randn(1024, 1024).to(kind), torch.randn(1024, 1024).to(kind)

    def step():
        with torch.no_grad():
            return F.linear(a, b) if transposed else a @ b

    return step


def timed(step, n):
    samples = []
    for _ in range(n):
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return samples


def prepare(name, precision, compile_too):
    """The fastest way that PyTorch has to do this work, warmed up: (mode, step, seconds by mode)."""
    if name == "matmul":
        ways = {"nn": lambda: product(precision, False), "nt": lambda: product(precision, True)}
    elif name in TRAINED:
        ways = {"eager": lambda: stepper(name, precision, False)}
        if compile_too:
            ways["compile"] = lambda: stepper(name, precision, True)
    else:
        raise ValueError(f"no work named {name}; there are matmul, {', '.join(TRAINED)}")
    best, seconds = None, {}
    for mode, make in ways.items():
        try:
            step = make()
            timed(step, 3)
            seconds[mode] = statistics.median(timed(step, CHOICE_STEPS))
        except Exception as reason:  # a machine without a C++ compiler has no torch.compile: the answer says so
            if mode != "compile":
                raise
            seconds[mode] = f"failed: {type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"
            continue
        if best is None or seconds[mode] < seconds[best[0]]:
            best = (mode, step)
    return best[0], best[1], seconds


def check(name, steps, path):
    from safetensors.torch import save_file

    module, optimizer, batches = build(name)
    tensors = {f"init.{k}": v.clone().contiguous() for k, v in module.state_dict().items()}
    tensors["batch.input"] = torch.stack([x for x, _ in batches])
    tensors["batch.target"] = torch.stack([y for _, y in batches])
    save_file(tensors, path)

    def train(precision):
        step = stepper(name, precision, False)
        return [float(step()) for _ in range(steps)]

    return dict(check=name, path=path, losses=train("f32"), losses_exact=train("f64"), batches=BATCHES,
                optimizer=dict(name="adamw", lr=LR, betas=BETAS, eps=EPS, weight_decay=TRAINED[name][2]))


# ---------------------------------------------------------------- the conversation


def answer(ready, asked):
    precision = asked.get("precision", "f32")
    if precision not in ("f32", "bf16"):
        raise ValueError(f"precision is f32 or bf16, not {precision}")
    if "work" in asked:
        mode, step, seconds = prepare(asked["work"], precision, asked.get("compile", True))
        ready[asked["work"], precision] = (mode, step)
        return dict(work=asked["work"], precision=precision, mode=mode, seconds=seconds[mode], modes=seconds)
    if "run" in asked:
        key = (asked["run"], precision)
        if key not in ready:
            raise ValueError(f"{key[0]} in {precision} was not prepared: send {{\"work\":\"{key[0]}\"}} first")
        mode, step = ready[key]
        samples = timed(step, int(asked.get("steps", 5)))
        return dict(run=key[0], precision=precision, mode=mode, seconds=statistics.median(samples), samples=samples)
    if "check" in asked:
        return check(asked["check"], int(asked.get("steps", 50)), asked["path"])
    if "drop" in asked:
        return dict(drop=asked["drop"], was_there=ready.pop((asked["drop"], precision), None) is not None)
    raise ValueError("a line has one of: work, run, check, drop, quit")


def peak_rss_bytes():
    """The most memory that this process had. getrusage would count what its parent had when it forked."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def main():
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr: stdout carries JSON alone
    say = lambda value: print(json.dumps(value), file=out)
    say(dict(event="ready", torch=torch.__version__, threads=torch.get_num_threads(), rss_bytes=peak_rss_bytes()))
    ready = {}
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
            if asked.get("quit"):
                break
            say(answer(ready, asked) | dict(peak_rss_bytes=peak_rss_bytes()))
        except Exception as reason:
            say(dict(error=f"{type(reason).__name__}: {reason}"))


if __name__ == "__main__":
    main()
