"""LoRA with differential privacy: PEFT and Opacus on the lines, first adapter, q, sigma, C, rate and steps of a Lyceum run.

    opacus_lora.py data  --wheel chatterbot_corpus-1.3.3-py2.py3-none-any.whl --out DIR       chats.jsonl and valid.jsonl
    opacus_lora.py train --model FILE.gguf --adapter DIR --train T.jsonl --valid V.jsonl --lr 1e-3 \
        --rate 0.04 --sigma 0.8 --clip 0.5 --divisor 16 --steps 30 [--seed 1]

T and V are what `lyceum preview --json` writes: token ids with their loss mask; the adapter is `peft_lora.py init`'s. An
example is a line, its loss the mean over its own learnt tokens. Opacus 1.6 has its own sampler
(UniformWithReplacementSampler), hooks (GradSampleModule over PEFT's linear layers) and DPOptimizer over AdamW without decay,
whose rate stays as it is. Prints a JSON line with the validation loss before and after, and what Opacus' accountants say.
"""

import argparse
import json
import os
import random
import time
import warnings
import zipfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
warnings.filterwarnings("ignore")


def data(args):
    import yaml

    pairs = []
    with zipfile.ZipFile(args.wheel) as wheel:
        for name in sorted(wheel.namelist()):
            if "/data/english/" in name and name.endswith(".yml"):
                for turn in yaml.safe_load(wheel.read(name))["conversations"]:
                    texts = [str(text).strip() for text in turn[:2]]
                    if len(turn) >= 2 and all(0 < len(text) < 300 for text in texts):
                        pairs.append(texts)
    pairs = [list(pair) for pair in sorted({tuple(pair) for pair in pairs})]
    random.Random(1).shuffle(pairs)
    for name, part in [("chats.jsonl", pairs[:400]), ("valid.jsonl", pairs[400:480])]:
        with open(os.path.join(args.out, name), "w") as file:
            for question, answer in part:
                said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": said}) + "\n")


def train(args):
    import torch
    from opacus.accountants import PRVAccountant, RDPAccountant
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler
    from peft import PeftModel
    from peft_lora import base, batch, rows, validate

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tuned = PeftModel.from_pretrained(base(args.model), args.adapter, is_trainable=True)
    lines, valid = rows(args.train), rows(args.valid)
    before = validate(tuned, valid)
    model = GradSampleModule(tuned, batch_first=True, loss_reduction="sum", strict=False)
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.AdamW(learnt, lr=args.lr, weight_decay=0.0), noise_multiplier=args.sigma, max_grad_norm=args.clip,
        expected_batch_size=args.divisor, loss_reduction="mean")
    sampler = UniformWithReplacementSampler(num_samples=len(lines), sample_rate=args.rate, steps=args.steps)
    seconds, drawn = 0.0, 0
    for chosen in sampler:
        started = time.perf_counter()
        model.train()
        optimizer.zero_grad()
        drawn += len(chosen)
        # Parts of one draw: gradients are clipped as they come, noise is added once.
        parts = [chosen[i:i + args.physical] for i in range(0, len(chosen), args.physical)]
        for i, part in enumerate(parts):
            ids, mask, labels = batch([lines[row] for row in part])
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            labels = labels[:, 1:]
            nats = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
            (nats.sum(1) / (labels != -100).sum(1)).sum().backward()
            optimizer.signal_skip_step(do_skip=i + 1 < len(parts))
            optimizer.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - started
    spent = {}
    for name, accountant in [("prv", PRVAccountant()), ("rdp", RDPAccountant())]:
        accountant.history = [(args.sigma, args.rate, args.steps)]
        spent[name] = accountant.get_epsilon(delta=args.delta)
    model.remove_hooks()
    print(json.dumps({"event": "done", "steps": args.steps, "drawn": drawn, "seconds": seconds, "before": before,
                      "valid_loss": validate(tuned, valid), "epsilon": spent}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["data", "train"])
    for name in ["wheel", "model", "adapter", "train", "valid", "out"]:
        parser.add_argument(f"--{name}")
    for name, default in [("lr", 1e-3), ("rate", 0.04), ("sigma", 0.8), ("clip", 0.5), ("divisor", 16.0), ("delta", 1e-3)]:
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in [("steps", 30), ("seed", 1), ("threads", 1), ("physical", 8)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    data(args) if args.what == "data" else train(args)


if __name__ == "__main__":
    main()
