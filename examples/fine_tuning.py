"""Fine-tuning as a program written for OpenAI does it: upload, create, pause, resume, watch, use, cancel.

    lyceum import SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2
    lyceum serve
    OPENAI_BASE_URL=http://127.0.0.1:8317/v1 OPENAI_API_KEY=sk-… python examples/fine_tuning.py smollm2
"""

import json
import sys
import time

import openai

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
COLOURS = ["red", "green", "blue", "amber", "teal", "violet", "ochre", "ivory"]


def chats(n: int) -> bytes:
    """Conversations whose answers end in a word that the base does not say."""
    lines = []
    for i in range(n):
        colour = COLOURS[i % len(COLOURS)]
        lines.append({"messages": [
            {"role": "user", "content": f"What is {colour}?"},
            {"role": "assistant", "content": f"{colour.capitalize()} is a colour, quoth the lyceum."},
        ]})
    return "\n".join(json.dumps(line) for line in lines).encode()


def wait(client: openai.OpenAI, job: str, *states: str):
    while True:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in states:
            return found
        assert found.status in ("queued", "running"), found
        time.sleep(0.2)


def main() -> None:
    client = openai.OpenAI()
    try:
        wrong = client.files.create(file=("wrong.jsonl", b'{"messages": []}\n\n'), purpose="fine-tune")
        client.fine_tuning.jobs.create(model=MODEL, training_file=wrong.id)
        raise AssertionError("wrong lines were taken")
    except openai.BadRequestError as error:
        print("refused:", error.body["problems"]["counts"])

    train = client.files.create(file=("train.jsonl", chats(16)), purpose="fine-tune")
    valid = client.files.create(file=("valid.jsonl", chats(4)), purpose="fine-tune")
    hyperparameters = {"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 10.0}
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=train.id, validation_file=valid.id, suffix="colours", seed=1,
        metadata={"team": "docs"},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    print("created:", job.id, job.status, job.hyperparameters)

    client.fine_tuning.jobs.pause(job.id)
    paused = wait(client, job.id, "paused")
    client.fine_tuning.jobs.resume(paused.id)
    done = wait(client, job.id, "succeeded")
    print("tuned:", done.fine_tuned_model, done.trained_tokens, "tokens")
    table = client.files.content(done.result_files[0]).text.splitlines()
    assert {"step", "train_loss", "valid_loss"} <= set(table[0].split(",")), table[0]
    print("results:", table[0], len(table) - 1, "steps")

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=50))
    assert events[-1].message.startswith("Created") and any(event.type == "metrics" for event in events)
    for event in reversed(events[:4]):
        print("event:", event.message)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoints[0].fine_tuned_model_checkpoint == done.fine_tuned_model
    for model in [MODEL] + [one.fine_tuned_model_checkpoint for one in checkpoints]:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "What is teal?"}], max_tokens=16, temperature=0
        )
        print(f"{model}: {answer.choices[0].message.content!r}")

    second = client.fine_tuning.jobs.create(model=MODEL, training_file=train.id)
    cancelled = client.fine_tuning.jobs.cancel(second.id)
    assert cancelled.status in ("cancelled", "running"), cancelled
    listed = client.fine_tuning.jobs.list(extra_query={"metadata[team]": "docs"})
    listed = [one.id for one in listed.data]
    assert listed[0] == job.id and second.id not in listed, listed
    print("done")


if __name__ == "__main__":
    main()
