"""Times a step of TRL's GRPOTrainer against `rlaif bench reinforce`, in turn, in one run.

    python grpo.py MODELS --python PYTHON --rlaif RLAIF

MODELS is what make_models.py wrote. PYTHON is an interpreter with trl 1.16.0. Without --rlaif only TRL is timed.
What is timed: full fine-tuning of llama-small; 4 prompts of 128 random ids, 4 responses of 128 tokens each, sampled at temperature 1 by transformers' own generation
(end of sequence out of reach); scores from a closure that costs nothing; one optimizer step of AdamW on all 16 responses in one pass, without recomputation. The first
step is not counted. `grpo` has a KL penalty of 0.04, so both programs load a reference and ask it; `dapo` has none. TRL samples and trains with its own code unchanged.
In bf16, TRL runs under autocast with weights in f32; rlaif has weights in bf16 with master copies and moments in f32.

Each process reports seconds per step (the mean over the timed steps) and its peak memory (VmHWM); the table has medians of the rounds.
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

MODEL, FIRST_ID = "llama-small", 10
ALGORITHMS = {"grpo": dict(loss_type="grpo", beta=0.04), "dapo": dict(loss_type="dapo", beta=0.0, epsilon_high=0.28)}


def measure_trl(arguments) -> dict:
    import torch
    import transformers
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    vocabulary = json.loads((Path(arguments.models) / "config.json").read_text())["vocab_size"]
    plain = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t2"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(pad_token="t0", eos_token="t1", unk_token="t2", bos_token="t3", padding_side="left")
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names)
    draw = random.Random(1)
    prompt = lambda: " ".join(f"t{draw.randrange(FIRST_ID, vocabulary)}" for _ in range(arguments.prompt_len))
    prompts = [dict(prompt=prompt()) for _ in range(arguments.prompts * (arguments.steps + 1))]
    ends = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=arguments.prompts * arguments.group, num_generations=arguments.group,
        max_steps=arguments.steps + 1, learning_rate=1e-6, max_completion_length=arguments.new_tokens,
        generation_kwargs=dict(min_new_tokens=arguments.new_tokens), use_vllm=False, bf16=arguments.dtype == "bf16", use_cpu=True, report_to=[], logging_steps=1,
        save_strategy="no", gradient_checkpointing=False, dataloader_pin_memory=False, optim="adamw_torch_fused", disable_tqdm=True, lr_scheduler_type="constant",
        warmup_steps=0, **ALGORITHMS[arguments.algorithm],
    )
    reward = lambda completions, **_: [float(len(set(completion.split())) % 7) for completion in completions]
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.models, dtype=torch.float32)
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(prompts), processing_class=words, callbacks=[Clock()]
    )
    trainer.train()
    steps = [end - start for start, end in zip(ends, ends[1:])]
    return {"sec_per_step": statistics.mean(steps), "peak_memory_bytes": side_by_side.peak_memory_bytes()}


def measure_rlaif(arguments) -> dict:
    sizes = ["--batch-size", arguments.prompts * arguments.group, "--group-size", arguments.group, "--prompt-len", arguments.prompt_len]
    sizes += ["--new-tokens", arguments.new_tokens, "--steps", arguments.steps, "--dtype", arguments.dtype, "--threads", arguments.threads]
    command = [arguments.rlaif, "bench", "reinforce", "--model", arguments.models, "--algorithm", arguments.algorithm, *sizes, "--json"]
    found = side_by_side.run_json([str(part) for part in command], arguments.threads)
    return {"sec_per_step": found["sec_per_step"], **found["phases"], "peak_memory_bytes": found["peak_memory_bytes"]}


def compare(arguments) -> None:
    folder = str(Path(arguments.models) / MODEL)
    table = []
    for algorithm in arguments.algorithms:
        for dtype in arguments.dtypes:
            shared = [folder, "--algorithm", algorithm, "--dtype", dtype]
            for flag in ("prompts", "group", "prompt_len", "new_tokens", "steps", "threads"):
                shared += [f"--{flag.replace('_', '-')}", str(getattr(arguments, flag))]
            script = str(Path(__file__).resolve())
            commands = {"TRL": [arguments.python, script, *shared, "--measure", "trl"]}
            if arguments.rlaif:
                commands["rlaif"] = [sys.executable, script, *shared, "--measure", "rlaif", "--rlaif", arguments.rlaif]
            commands = {name: command for name, command in commands.items() if arguments.only in (None, name)}
            results = side_by_side.in_turn(commands, arguments.rounds, arguments.threads)
            base = results.get("TRL", results[next(iter(results))])
            for name, found in results.items():
                phases = " + ".join(f"{found[phase]:.2f}" for phase in ("generate", "reward", "update") if phase in found)
                peak = found["peak_memory_bytes"]
                ratios = [base["sec_per_step"] / found["sec_per_step"], peak / base["peak_memory_bytes"]]
                table.append([algorithm, dtype, name, found["sec_per_step"], phases, ratios[0], round(peak / 2**20), ratios[1]])
    header = ["algorithm", "dtype", "program", "s/step", "generate + reward + update", "TRL's time / its", "peak MiB", "its peak / TRL's"]
    side_by_side.print_table(header, table)


def main() -> None:
    parser = side_by_side.parser(__doc__, "trl 1.16.0")
    parser.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--dtypes", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--only", choices=["TRL", "rlaif"], help="one of the programs, without ratios to the other")
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a step")
    parser.add_argument("--group", type=int, default=4, help="responses to each prompt")
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of one process")
    child = parser.add_argument_group("one measurement, started by this script itself")
    child.add_argument("--measure", choices=["trl", "rlaif"])
    child.add_argument("--algorithm", choices=list(ALGORITHMS))
    child.add_argument("--dtype")
    arguments = parser.parse_args()
    if arguments.only == "rlaif" and not arguments.rlaif:
        parser.error("--only rlaif needs --rlaif")
    if arguments.measure:
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(json.dumps(measure_trl(arguments) if arguments.measure == "trl" else measure_rlaif(arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
