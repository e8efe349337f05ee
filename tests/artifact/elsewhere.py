"""An adapter trained without this library: plain peft and the Trainer of transformers."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from svd_lightning.commands.demo import BASE_FOLDER
from tests.chain import read_jsonl


def train_adapter(diaries: Path, folder: Path) -> Path:
    """A folder as `save_pretrained` writes it, of LoRA on the embedded base."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE_FOLDER)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE_FOLDER),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    )

    def encoded(row):
        prompt, completion = (tokenizer(row[name], add_special_tokens=False) for name in ("prompt", "completion"))
        ids = [*prompt.input_ids, *completion.input_ids, tokenizer.eos_token_id]
        return {"input_ids": ids, "labels": [*[-100] * len(prompt.input_ids), *ids[len(prompt.input_ids) :]]}

    def collate(rows):
        width = max(len(row["input_ids"]) for row in rows)
        pads = {"input_ids": tokenizer.pad_token_id, "labels": -100}
        return {
            name: torch.tensor([row[name] + [pad] * (width - len(row[name])) for row in rows])
            for name, pad in pads.items()
        }

    options = TrainingArguments(
        str(folder / "trainer"),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    rows = [encoded(row) for row in read_jsonl(diaries / "train.jsonl")]
    Trainer(model, options, train_dataset=rows, data_collator=collate).train()
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"
