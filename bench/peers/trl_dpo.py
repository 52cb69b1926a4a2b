"""DPO with TRL on the data, order and hyperparameters of a Lyceum run, whole weights in f32.

    trl_dpo.py --model DIR --pairs PAIRS.jsonl --order ORDER.json --lr 5e-6 --warmup N --beta 0.1 \
        [--optimizer sgd] [--ours LOG.jsonl]

DIR is a base in Hugging Face's layout with a chat template. PAIRS is what `lyceum train` reads: lines with `input`,
`preferred_output` and `non_preferred_output`. ORDER is a JSON list of steps, each the rows of one optimiser step
(`order` in the last line of `lyceum preview --json`). Prompts are rendered by the base's template; an answer ends with
the token that ends a turn, as Lyceum learns it. AdamW (or plain SGD) without decay, gradients clipped at 1,
the rate up over the warm-up and down to 0. Prints a JSON line a step; with --ours (what `lyceum train --json` printed) the largest relative difference of the losses.
"""

import argparse
import json

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def rendered(tokenizer, line):
    prompt = tokenizer.apply_chat_template(line["input"]["messages"], add_generation_prompt=True, tokenize=False)
    said = lambda name: line[name][0]["content"] + tokenizer.eos_token
    return {"prompt": prompt, "chosen": said("preferred_output"), "rejected": said("non_preferred_output")}


class InOrder(DPOTrainer):
    """Rows as they come: they stand in the order of the run already."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--order", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--out", default="/tmp/trl_dpo")
    parser.add_argument("--ours")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    lines = [rendered(tokenizer, json.loads(line)) for line in open(args.pairs)]
    order = json.load(open(args.order))
    assert len({len(step) for step in order}) == 1, "batches of one size"
    rows = Dataset.from_list([lines[row] for step in order for row in step])
    config = DPOConfig(
        output_dir=args.out, per_device_train_batch_size=len(order[0]), num_train_epochs=1, beta=args.beta, max_grad_norm=args.clip,
        logging_steps=1, save_strategy="no", report_to=[],
        bf16=False, fp16=False, gradient_checkpointing=False, use_cpu=True, max_length=None, disable_dropout=True)
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizer = kinds[args.optimizer](model.parameters(), lr=args.lr, weight_decay=0.0)
    # Lyceum's first step has a rate already; transformers' linear schedule begins at 0.
    after = len(order) - args.warmup
    share = lambda i: (i + 1) / (args.warmup + 1) if i < args.warmup else (len(order) - i) / after
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    trainer = InOrder(model=model, args=config, optimizers=(optimizer, schedule), train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    told = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(told, 1):
        print(json.dumps({"step": step, "loss": entry["loss"], "margin": entry.get("rewards/margins"),
                          "lr": entry.get("learning_rate")}))
    if args.ours:
        events = [json.loads(line) for line in open(args.ours)]
        ours = {event["step"]: event["loss"] for event in events if "loss" in event and "step" in event}
        worst = max(abs(loss - told[step - 1]["loss"]) / told[step - 1]["loss"] for step, loss in ours.items())
        print(json.dumps({"steps_compared": len(ours), "largest_relative_difference": worst}))


if __name__ == "__main__":
    main()
