"""LoRA with PEFT and PyTorch on the data, order and first adapter of a Lyceum run.

    peft_lora.py init  --model FILE.gguf --rank 8 --alpha 16 --out DIR
    peft_lora.py train --model FILE.gguf --adapter DIR --train T.jsonl --valid V.jsonl --order STEPS.json \
        --lr 2e-4 --warmup N [--steps N] [--out DIR]

`init` writes PEFT's fresh adapter (A by Kaiming, B zero), which `lyceum import` reads. T and V are what
`lyceum preview --json` writes: token ids with their loss mask. STEPS.json holds the rows of each step
(`lyceum preview --json`'s last line). The base is the GGUF file's weights in f32, batches are padded on the right,
the loss is the mean over learnt tokens, the optimiser AdamW without decay, gradients clipped at 1, the rate rising
linearly over the warm-up and falling linearly to 0. Prints a JSON line a step and the validation loss before and after.
"""

import argparse
import json
import os
import time

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base(path):
    folder, name = os.path.split(path)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)


def rows(path):
    lines = [json.loads(line) for line in open(path)]
    return [[(t["id"], t["loss"]) for t in line["tokens"]] for line in lines if "tokens" in line]


def batch(examples):
    longest = max(len(e) for e in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), -100)
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    for i, example in enumerate(examples):
        for t, (token, loss) in enumerate(example):
            ids[i, t], mask[i, t] = token, 1
            if loss:
                labels[i, t] = token
    return ids, mask, labels


def loss_of(model, examples, reduction):
    ids, mask, labels = batch(examples)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), reduction=reduction)


def validate(model, examples):
    model.eval()
    with torch.no_grad():
        nats = sum(loss_of(model, examples[i:i + 8], "sum").item() for i in range(0, len(examples), 8))
    return nats / sum(loss for e in examples for _, loss in e[1:])


def train(args):
    model = PeftModel.from_pretrained(base(args.model), args.adapter, is_trainable=True)
    data, valid, order = rows(args.train), rows(args.valid), json.load(open(args.order))["order"]
    order = order[:args.steps] if args.steps else order
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=args.lr, weight_decay=0.0)
    print(json.dumps({"event": "eval", "step": 0, "valid_loss": validate(model, valid)}), flush=True)
    seconds = 0.0
    for step, chosen in enumerate(order):
        started = time.perf_counter()
        model.train()
        rate = (step + 1) / (args.warmup + 1) if step < args.warmup \
            else 1 - (step - args.warmup) / (len(order) - args.warmup)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        loss = loss_of(model, [data[i] for i in chosen], "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - started
        print(json.dumps({"event": "step", "step": step + 1, "loss": loss.item()}), flush=True)
    print(json.dumps({"event": "done", "steps": len(order), "seconds": seconds,
                      "valid_loss": validate(model, valid)}), flush=True)
    if args.out:
        model.save_pretrained(args.out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["init", "train"])
    parser.add_argument("--model", required=True)
    for name in ["adapter", "train", "valid", "order", "out"]:
        parser.add_argument(f"--{name}")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    if args.what == "train":
        return train(args)
    config = LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules=TARGETS, task_type="CAUSAL_LM")
    get_peft_model(base(args.model), config).save_pretrained(args.out)


if __name__ == "__main__":
    main()
