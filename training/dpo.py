"""Direct preference optimisation against log-probabilities of the reference, computed once beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from curation.schema import require_same_ids
from curation.steps import Build, StepOutput
from training.batch import Batch, on_device, pair_batch
from training.config import DpoLoss, TrainConfig
from training.data import Data, open_data
from training.head import token_logps
from training.losses import Loss, dpo, dpo_margin, dpo_weight
from training.model import device, fixed_arithmetic, head_products, head_weight, hidden_states, load_causal
from training.outcome import Outcome, pair_sources
from training.parallel import Crew, twin
from training.plan import pair_bins
from training.precision import in_bfloat16


def completion_logps(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The summed log-probability of each sequence's tokens in the loss, in nats, (s,).

    Only positions that predict a token of the completion reach the output matrix.
    """
    hidden = hidden_states(model, batch, batch.selected)
    logps = token_logps(hidden, head_weight(model), batch.targets, head_products(model))
    return batch.sum_by_sequence(logps)


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of both completions under the reference model, float32 by index row."""

    chosen: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class DPO:
    """Mean DPO loss of pairs, plus `sft_weight` times the chosen answers' mean cross-entropy over tokens.

    Metrics bear TRL's names where the definition is TRL's, but are means over all pairs of a step.
    `gradient_weight` is ours: what a pair weighs in the gradient (see `training.losses.dpo_weight`).
    """

    data: Data
    reference: Reference
    beta: float
    kind: DpoLoss = "sigmoid"
    label_smoothing: float = 0.0
    sft_weight: float = 0.0

    def outcome(self, model: PreTrainedModel, batch: Batch) -> Outcome:
        chosen, rejected = completion_logps(model, batch).chunk(2)
        rows = batch.rows[: len(batch.rows) // 2]
        reference_chosen = on_device(self.reference.chosen[rows], chosen.device)
        reference_rejected = on_device(self.reference.rejected[rows], chosen.device)
        tokens = np.bincount(batch.sequence, minlength=len(batch.lengths)).astype(np.float32)
        lengths = on_device(tokens, chosen.device).chunk(2)
        logps = (chosen, rejected, reference_chosen, reference_rejected)
        margin = dpo_margin(*logps, self.beta, self.kind, *lengths)
        loss = dpo(margin, self.beta, self.kind, self.label_smoothing)
        sft = -chosen / batch.answer_tokens  # its sum over the step's pairs is their number times the token mean
        if self.sft_weight:
            loss = Loss(
                loss.sum + self.sft_weight * sft.sum(), loss.count, loss.each + self.sft_weight * sft.detach()
            )
        chosen_reward = self.beta * (chosen.detach() - reference_chosen)
        rejected_reward = self.beta * (rejected.detach() - reference_rejected)
        metrics = {
            "rewards/chosen": chosen_reward,
            "rewards/rejected": rejected_reward,
            "rewards/accuracies": (chosen_reward > rejected_reward).float(),
            "rewards/margins": chosen_reward - rejected_reward,
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
            "gradient_weight": dpo_weight(margin, self.beta, self.kind, self.label_smoothing),
            "chosen_nll": sft.detach(),
        }
        return Outcome(loss, pair_sources(self.data, batch), metrics)


def write_reference(build: Build, data: StepOutput, checkpoint: StepOutput, config: TrainConfig) -> None:
    """The work of `training.station.reference_step`."""
    pairs = open_data(data)
    with fixed_arithmetic(config.threads, seed=0):
        model = load_causal(checkpoint.folder / "model").to(device()).eval()
        if config.precision == "bfloat16":
            model = in_bfloat16(model)
        chosen, rejected = pair_logps(
            model, pairs, np.arange(pairs.rows), config.sequence_length, config.micro_batch_tokens, build
        )
    build.write_table("logps.parquet", pa.table({"id": pairs.ids, "chosen": chosen, "rejected": rejected}))
    build.counts = {"documents_in": pairs.rows, "documents_out": pairs.rows}


def load_reference(output: StepOutput, data: Data) -> Reference:
    """Raises ValueError if the table is not of this data."""
    path: Path = output.folder / "logps.parquet"
    table = pq.read_table(path)
    require_same_ids(table["id"], data.ids, str(path))
    return Reference(table["chosen"].to_numpy(), table["rejected"].to_numpy())


def pair_logps(
    model: PreTrainedModel,
    data: Data,
    rows: np.ndarray,
    sequence_length: int,
    micro_batch_tokens: int,
    build: Build | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probabilities of the two completions of some pairs, float32 (rows,) each.

    Sequences are cut to their first `sequence_length` tokens, as in training. On a CPU each of torch's threads
    takes micro-batches of its own.
    """
    batches = pair_bins(data, rows, sequence_length, micro_batch_tokens)
    if build is not None:
        build.context.progress.begin(build.name, len(batches))

    @torch.no_grad()
    def work(model: PreTrainedModel, members: np.ndarray) -> torch.Tensor:
        return completion_logps(model, pair_batch(data, rows[members], sequence_length, device()))

    found = []  # brought back together: a GPU then never waits for the next batch
    threads = torch.get_num_threads() if device().type == "cpu" else 1
    with Crew([model, *(twin(model) for _ in range(threads - 1))]) as crew:
        for logps in crew.each(work, batches):
            found.append(logps)
            if build is not None:
                build.context.progress.advance(build.name)
    chosen, rejected = np.zeros((2, len(rows)), np.float32)
    for members, logps in zip(batches, found, strict=True):
        chosen[members], rejected[members] = logps.view(2, -1).cpu().numpy()
    return chosen, rejected
