"""Times an optimizer step of TRL's DPOTrainer against `rlaif bench dpo`, in turn, in one run.

    python dpo.py MODELS --python PYTHON --rlaif RLAIF

MODELS is what make_models.py wrote. PYTHON is an interpreter with trl 1.16.0 (requirements-1.txt beside rlaif-dpo's fixtures). Without --rlaif only TRL is timed.
What is timed: full fine-tuning of llama-small by the sigmoid loss, AdamW, 8 pairs a step, prompts and responses of 32 to 64 random ids each (an EOS behind every
response, 128 ids together at most), dropout off, no recomputation. Both programs take the same pairs in the same batches; the first step is not counted.
Both compute the reference with a second model in every step, and the prompt once for each response, in the rows marked `like for like`; the other rows add what TRL
does not do in this setting: the shared prompt, and a reference that was computed before (TRL has that as precompute_ref_log_probs, which is timed as well).
In bf16, TRL runs under autocast with weights in f32; rlaif has weights in bf16 with master copies and moments in f32.

Each process reports seconds per step (the mean over the timed steps) and its peak memory (VmHWM); the table has medians of the rounds.
"""

import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import side_by_side

MODEL, VOCABULARY, EOS, CONTEXT = "llama-small", 32000, 1, 128
VARIANTS = {
    "like for like": ["--reference", "live", "--prompt-forward", "twice"],
    "shared prompt": ["--reference", "live", "--prompt-forward", "shared"],
    "cached reference": ["--reference", "cached", "--prompt-forward", "twice"],
    "shared prompt, cached reference": ["--reference", "cached", "--prompt-forward", "shared"],
}


def write_rows(path: Path, batch: int, steps: int, length: int) -> None:
    """Pairs for one step that is not counted and `steps` that are."""
    draw = random.Random(1)
    ids = lambda: [draw.randrange(10, VOCABULARY) for _ in range(draw.randint(length // 2, length))]
    with path.open("w") as file:
        for _ in range(batch * (steps + 1)):
            prompt = ids()
            response = lambda: (ids() + [EOS])[: CONTEXT - len(prompt)]
            file.write(json.dumps(dict(prompt_ids=prompt, chosen_ids=response(), rejected_ids=response())) + "\n")


def measure_trl(arguments) -> dict:
    import torch
    import transformers
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    plain = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t2"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(pad_token="t0", eos_token=f"t{EOS}", unk_token="t2", bos_token="t3")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)
    text = lambda ids: " ".join(f"t{i}" for i in ids if i != EOS)
    pairs = [json.loads(line) for line in Path(arguments.rows).read_text().splitlines()]
    pairs = [dict(prompt=text(p["prompt_ids"]), chosen=" " + text(p["chosen_ids"]), rejected=" " + text(p["rejected_ids"])) for p in pairs]

    ends = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, *_, **__):
            return SequentialSampler(self.train_dataset)

    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=arguments.batch_size, max_steps=arguments.steps + 1, learning_rate=1e-6, report_to=[],
        logging_steps=1, save_strategy="no", gradient_checkpointing=False, bf16=arguments.dtype == "bf16", use_cpu=True, max_length=CONTEXT,
        dataloader_pin_memory=False, optim="adamw_torch_fused", disable_tqdm=True, lr_scheduler_type="constant", warmup_steps=0,
        precompute_ref_log_probs=arguments.precompute,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.models, dtype=torch.float32)
    InOrder(model=model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=words, callbacks=[Clock()]).train()
    steps = [end - start for start, end in zip(ends, ends[1:])]
    return {"sec_per_step": statistics.mean(steps), "peak_memory_bytes": side_by_side.peak_memory_bytes()}


def compare(arguments) -> None:
    folder = str(Path(arguments.models) / MODEL)
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "pairs.jsonl"
        write_rows(rows, arguments.batch_size, arguments.steps, arguments.length)
        shape = ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
        for dtype in arguments.dtypes:
            child = [arguments.python, str(Path(__file__).resolve()), folder, "--child", "--rows", str(rows), "--dtype", dtype, *shape]
            child += ["--threads", str(arguments.threads)]
            commands = {"TRL": child, "TRL, precomputed reference": [*child, "--precompute"]}
            if arguments.rlaif:
                ours = [arguments.rlaif, "bench", "dpo", "--model", folder, "--input", str(rows), "--dtype", dtype, *shape]
                ours += ["--threads", str(arguments.threads), "--json"]
                commands |= {f"rlaif, {name}": [*ours, *flags] for name, flags in VARIANTS.items()}
            commands = {name: command for name, command in commands.items() if not arguments.only or any(part in name for part in arguments.only)}
            results = side_by_side.in_turn(commands, arguments.rounds, arguments.threads)
            base = results["TRL"]
            for name, result in results.items():
                peak = result["peak_memory_bytes"]
                ratios = [base["sec_per_step"] / result["sec_per_step"], peak / base["peak_memory_bytes"]]
                table.append([dtype, name, result["sec_per_step"], ratios[0], round(peak / 2**20), ratios[1]])
    side_by_side.print_table(["dtype", "program", "s/step", "TRL's time / its", "peak MiB", "its peak / TRL's"], table)


def main() -> None:
    parser = side_by_side.parser(__doc__, "trl 1.16.0")
    parser.add_argument("--dtypes", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--only", nargs="+", help="programs whose name contains one of these; TRL itself is needed for the ratios")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs of a step")
    parser.add_argument("--length", type=int, default=64, help="ids of a prompt or response at most; half of it at least")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of one process")
    child = parser.add_argument_group("one measurement of TRL, started by this script itself")
    child.add_argument("--child", action="store_true")
    child.add_argument("--rows")
    child.add_argument("--dtype")
    child.add_argument("--precompute", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(json.dumps(measure_trl(arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
