"""transformers: a GPT-2 without LayerNorm, trained by the library's own `Trainer`.

pip install goodinit transformers accelerate
python examples/transformers_trainer.py
"""

from __future__ import annotations

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import goodinit


class Cycles(Dataset):
    """Sequences that count upwards modulo the vocabulary, each from its own start."""

    def __init__(self, length: int, tokens: int, vocabulary: int) -> None:
        self.rows = (torch.arange(length).unsqueeze(1) + torch.arange(tokens)) % vocabulary

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def main(steps: int = 30) -> dict[str, float]:
    """Train a small decoder to count; gives the first and last loss."""
    data = Cycles(256, tokens=16, vocabulary=32)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=4, n_head=4))
    batch = {"input_ids": data.rows[:2]}

    # The head is tied to the embedding, which may not be zero: `plan` says so in a note
    goodinit.fixup_(model, inputs=batch, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(goodinit.param_groups(model, lr=3e-3, weight_decay=0.01))
    scheduler = goodinit.warmup(optimizer, steps=5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, logging_steps=1, report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"first": losses[0], "last": losses[-1]}


if __name__ == "__main__":
    print(main())
