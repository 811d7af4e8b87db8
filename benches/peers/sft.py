"""Times an optimizer step of supervised fine-tuning against `rlaif bench sft`, in turn, in one run.

    python sft.py MODELS --python PYTHON --rlaif RLAIF

MODELS is what make_models.py wrote. PYTHON is an interpreter with trl 1.16.0 and transformers 5.23.0. Without --rlaif only the peers are timed.
What is timed: full fine-tuning, AdamW (fused, in both), gradients clipped to a norm of 1, 8 rows a step, dropout off, no recomputation; the first step is not counted.

| model | peer | rows |
|---|---|---|
| llama-small | TRL's SFTTrainer | 64 to 128 random ids, all but the first learned |
| t5-small | transformers' Seq2SeqTrainer | prompts of 64 to 128 random ids, responses of 16 to 32 |

Both programs take the same rows in the same batches. In bf16 the peers run under autocast with weights in f32; rlaif has weights in bf16 with master copies and
moments in f32. Each process reports tokens per second (real ids, padding not counted) and its peak memory (VmHWM); the table has medians of the rounds. `loss` is
that of the first step, to see that both compute the same.
"""

import json
import os
import random
import tempfile
import time
from pathlib import Path

import side_by_side

VOCABULARY = 32000
SHAPES = {"llama-small": ((1, 1), (63, 127)), "t5-small": ((64, 128), (16, 32))}


def write_rows(path: Path, model: str, batch: int, steps: int) -> None:
    """Rows for one step that is not counted and `steps` that are."""
    draw = random.Random(1)
    ids = lambda low, high: [draw.randrange(10, VOCABULARY) for _ in range(draw.randint(low, high))]
    prompt, response = SHAPES[model]
    with path.open("w") as file:
        for _ in range(batch * (steps + 1)):
            file.write(json.dumps(dict(prompt_ids=ids(*prompt), response_ids=ids(*response))) + "\n")


def measure(arguments) -> dict:
    import torch
    import transformers
    from datasets import Dataset
    from torch.utils.data import SequentialSampler

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    rows = [json.loads(line) for line in Path(arguments.rows).read_text().splitlines()]
    ends, losses = [], []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

        def on_log(self, *_, logs=None, **__):
            losses.extend([logs["loss"]] if logs and "loss" in logs else [])

    shared = dict(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=arguments.batch_size, max_steps=arguments.steps + 1, learning_rate=1e-5, report_to=[],
        logging_steps=1, save_strategy="no", gradient_checkpointing=False, bf16=arguments.dtype == "bf16", use_cpu=True, dataloader_pin_memory=False,
        optim="adamw_torch_fused", disable_tqdm=True, lr_scheduler_type="constant", warmup_steps=0, max_grad_norm=1.0,
    )
    if "llama" in arguments.models:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from trl import SFTConfig, SFTTrainer

        plain = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t2"))
        plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="t0", eos_token="t1", unk_token="t2", bos_token="t3")
        data = Dataset.from_list([{"input_ids": row["prompt_ids"] + row["response_ids"]} for row in rows])
        model = transformers.AutoModelForCausalLM.from_pretrained(arguments.models, dtype=torch.float32)

        class InOrder(SFTTrainer):
            def _get_train_sampler(self, *_, **__):
                return SequentialSampler(self.train_dataset)

        trainer = InOrder(model=model, args=SFTConfig(max_length=128, **shared), train_dataset=data, processing_class=words, callbacks=[Clock()])
    else:
        data = Dataset.from_list([{"input_ids": row["prompt_ids"], "labels": row["response_ids"]} for row in rows])
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(arguments.models, dtype=torch.float32)

        class InOrder(transformers.Seq2SeqTrainer):
            def _get_train_sampler(self, *_, **__):
                return SequentialSampler(self.train_dataset)

        def collate(batch):
            width = lambda key: max(len(row[key]) for row in batch)
            pad = lambda key, fill: torch.tensor([row[key] + [fill] * (width(key) - len(row[key])) for row in batch])
            mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width("input_ids") - len(row["input_ids"])) for row in batch])
            return dict(input_ids=pad("input_ids", 0), attention_mask=mask, labels=pad("labels", -100))

        config = transformers.Seq2SeqTrainingArguments(**shared)
        trainer = InOrder(model=model, args=config, train_dataset=data, data_collator=collate, callbacks=[Clock()])
    trainer.train()
    timed = rows[arguments.batch_size :][: arguments.batch_size * arguments.steps]
    tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in timed)
    seconds = ends[-1] - ends[0]
    return {
        "sec_per_step": seconds / arguments.steps, "tokens_per_s": tokens / seconds, "loss": losses[0],
        "peak_memory_bytes": side_by_side.peak_memory_bytes(),
    }


def compare(arguments) -> None:
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in arguments.only or SHAPES:
            rows = Path(scratch) / f"{model}.jsonl"
            write_rows(rows, model, arguments.batch_size, arguments.steps)
            folder = str(Path(arguments.models) / model)
            shape = ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            for dtype in arguments.dtypes:
                child = [arguments.python, str(Path(__file__).resolve()), folder, "--child", "--rows", str(rows), "--dtype", dtype, *shape]
                commands = {"TRL" if "llama" in model else "transformers": child}
                if arguments.rlaif:
                    ours = [arguments.rlaif, "bench", "sft", "--model", folder, "--input", str(rows), "--dtype", dtype, "--json", *shape]
                    commands |= {"rlaif": ours}
                    if "llama" in model:
                        commands |= {"rlaif, packed": [*ours, "--batching", "packed"]}
                results = side_by_side.in_turn(commands, arguments.rounds, arguments.threads)
                base = next(iter(results.values()))
                for name, result in results.items():
                    ratio = result["tokens_per_s"] / base["tokens_per_s"]
                    memory = result["peak_memory_bytes"]
                    row = [model, dtype, name, result["sec_per_step"], round(result["tokens_per_s"]), ratio, round(memory / 2**20)]
                    table.append([*row, memory / base["peak_memory_bytes"], result.get("loss", 0.0)])
    header = ["model", "dtype", "program", "s/step", "tokens/s", "its rate / the peer's", "peak MiB", "its peak / the peer's", "loss"]
    side_by_side.print_table(header, table)


def main() -> None:
    parser = side_by_side.parser(__doc__, "trl 1.16.0")
    parser.add_argument("--dtypes", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--only", nargs="+", choices=list(SHAPES))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of one process")
    child = parser.add_argument_group("one measurement of a peer, started by this script itself")
    child.add_argument("--child", action="store_true")
    child.add_argument("--rows")
    child.add_argument("--dtype")
    arguments = parser.parse_args()
    if arguments.child:
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(json.dumps(measure(arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
