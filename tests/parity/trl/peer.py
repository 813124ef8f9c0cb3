"""TRL's side of a comparison: runs in the peer's environment, told by one JSON file.

The job: method (sft, reward, dpo), model (a folder), rows (token ids: prompt, chosen, rejected; margin), order
(of rows, as they are fed), batch (rows of a micro-batch), steps, settings (of TRL's config), attention (a name of
transformers', or `varlen`), weights (a file to write) and values (whether to give what the model says of every
token). Prints a line of JSON for these if wanted, one when ready, and one a step. With `gate` each step waits for
a line on standard input: two sides can take turns.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1"}
os.environ |= {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}

import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch.utils.data import SequentialSampler
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

OUT = os.fdopen(os.dup(1), "w")
TRAINERS = {
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
}


def say(line: dict) -> None:
    OUT.write(json.dumps(line) + "\n")
    OUT.flush()


def dataset(job: dict) -> Dataset:
    """The rows in the form that the trainer takes ready-made, already in order."""
    rows = [job["rows"][place] for place in job["order"]]
    if job["method"] == "dpo":
        return Dataset.from_list(
            [{f"{side}_ids": row[side] for side in ("prompt", "chosen", "rejected")} for row in rows]
        )
    if job["method"] == "reward":
        pairs = [{f"{side}_ids": row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows]
        if any(row.get("margin") for row in rows):
            pairs = [{**pair, "margin": row.get("margin") or 0.0} for pair, row in zip(pairs, rows, strict=True)]
        return Dataset.from_list(pairs)
    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt"] + row["chosen"],
                "labels": [-100] * len(row["prompt"]) + row["chosen"],
            }
            for row in rows
        ]
    )


def varlen(module, query, key, value, attention_mask, scaling, dropout=0.0, sliding_window=None, **told):
    """Padding-free rows through the kernel that torch has, where the package flash-attn is not installed."""
    from torch.nn.attention.varlen import varlen_attn

    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    begins, longest = told["cu_seq_lens_q"].to(query.device, torch.int32), int(told["max_length_q"])
    window = (sliding_window - 1, 0) if sliding_window is not None and longest > sliding_window else (-1, 0)
    return varlen_attn(*rows, begins, begins, longest, longest, scale=scaling, window_size=window)[None], None


AttentionInterface.register("varlen", varlen)


class Steps(TrainerCallback):
    """Waits before each step if gated; tells its loss, gradient norm, seconds, and TRL's metrics.

    A step's seconds end where the next one would begin: what the loop does between two (its log, the next batch)
    belongs to it, as with ours, and is not done while the other side has its turn.
    """

    def __init__(self, gate: bool):
        self.gate, self.done = gate, None

    def on_step_begin(self, args, state, control, **_):
        self.tell()
        if self.gate and not sys.stdin.readline():
            os._exit(1)
        self.began = time.perf_counter(), time.process_time()

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.done = logs

    def on_train_end(self, args, state, control, **_):
        self.tell()

    def tell(self) -> None:
        if self.done is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        line = {"wall": time.perf_counter() - self.began[0], "cpu": time.process_time() - self.began[1]}
        line["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            line["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        say({**self.done, **line})
        self.done = None


def values(model, trainer, method: str) -> list[list[float]]:
    """Log-probabilities of tokens in the loss by sequence, in the batches' order; of a reward model, scores."""
    result = []
    for batch in trainer.get_train_dataloader():
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ids = given["input_ids"]
        with torch.no_grad():
            if method == "reward":
                result += model(**given).logits.tolist()
                continue
            labels = batch["labels"] if "labels" in batch else ids.masked_fill(batch["completion_mask"] == 0, -100)
            found = model(**given, labels=labels, fused_lm_head=True)
        for logps, label in zip(found.log_probs, labels[:, 1:], strict=True):
            result.append(logps[label != -100].tolist())
    return result


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.stdout = sys.stderr
    torch.set_num_threads(job["threads"])
    trainer_class, config_class = TRAINERS[job["method"]]
    kind = AutoModelForSequenceClassification if job["method"] == "reward" else AutoModelForCausalLM
    model = kind.from_pretrained(job["model"], dtype=torch.float32, attn_implementation=job["attention"])
    settings = {"bf16": False, "use_cpu": True, "dataloader_pin_memory": False, **job["settings"]}
    config = config_class(
        output_dir=job["folder"],
        per_device_train_batch_size=job["batch"],
        max_steps=job["steps"],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        lr_scheduler_type="constant",
        include_num_input_tokens_seen=False,
        seed=0,
        **settings,
    )

    class InOrder(trainer_class):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def _prepare_dataset(self, dataset, *_):  # the rows are token ids already
            return dataset

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    trainer = InOrder(
        model=model,
        args=config,
        train_dataset=dataset(job),
        processing_class=tokenizer,
        callbacks=[Steps(job["gate"])],
    )
    if job["values"]:
        say({"values": values(model.eval(), trainer, job["method"])})
    say({"ready": True})
    trainer.train()
    if job["weights"]:
        save_file({name: value.detach().clone() for name, value in model.named_parameters()}, job["weights"])


if __name__ == "__main__":
    main()
