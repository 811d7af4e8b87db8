"""Times steps of TRL 0.11.4's PPOTrainer against `rlaif bench ppo`, in turn, in one run.

    python ppo.py MODELS --python PYTHON --rlaif RLAIF

MODELS is the folder of all models that make_models.py wrote; PYTHON an interpreter with torch, trl 0.11.4 and transformers 4.46.3.
What is timed: 16 prompts of random ids, 64 to 128 long, 32 new tokens for each, sampled at temperature 1 with end of sequence out of
reach; scores from a classifier in the shape of roberta-base, on 32 ids for each response; then the update: log-probabilities and
values of policy and reference, and 4 epochs of minibatches of 4, all weights trained. One step is made before those that count.
TRL runs its own code unchanged, in eval mode and with its own defaults; it reads scores from a table of ids, since random ids are no text.
Ours is called as

    rlaif bench ppo --model DIR --reward DIR --batch-size 16 --minibatch-size 4 --epochs 4 --prompt-len 64-128 --new-tokens 32 --steps S \\
        --dtype f32|bf16 --threads T --json

and prints {"sec_per_step", "phases": {"generate", "reward", "update"}, .., "peak_memory_bytes"}. With bf16, TRL keeps the optimizer's
moments in bf16 as well, where ours has moments and a master copy of the weights in f32.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import side_by_side

CASES = [("t5-small", "f32"), ("t5-small", "bf16"), ("llama-small", "f32")]
FIRST_ID = 10


def measure_trl(arguments) -> dict:
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
    from trl import AutoModelForCausalLMWithValueHead, AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    folder = Path(arguments.models) / arguments.model
    config = json.loads((folder / "config.json").read_text())
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(config["vocab_size"])}, unk_token="t2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1", unk_token="t2")
    auto = AutoModelForSeq2SeqLMWithValueHead if config["model_type"] == "t5" else AutoModelForCausalLMWithValueHead
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    policy = auto.from_pretrained(str(folder), torch_dtype=dtype)
    reward = AutoModelForSequenceClassification.from_pretrained(Path(arguments.models) / "roberta-base", torch_dtype=dtype).eval()
    settings = PPOConfig(
        learning_rate=1.41e-5, ppo_epochs=arguments.epochs, batch_size=arguments.batch_size, mini_batch_size=arguments.minibatch_size, log_with=None
    )
    trainer = PPOTrainer(config=settings, model=policy, ref_model=create_reference_model(policy), tokenizer=tokenizer)
    draw = torch.Generator().manual_seed(1)
    new = arguments.new_tokens
    sampling = dict(min_new_tokens=new, max_new_tokens=new, top_k=0.0, top_p=1.0, do_sample=True, pad_token_id=0)
    totals = {"generate": 0.0, "reward": 0.0, "update": 0.0}
    for step in range(arguments.steps + 1):
        lengths = torch.randint(64, 129, (arguments.batch_size,), generator=draw)
        queries = [torch.randint(FIRST_ID, config["vocab_size"], (int(n),), generator=draw) for n in lengths]
        marks = [time.perf_counter()]
        responses = trainer.generate(queries, batch_size=arguments.batch_size, return_prompt=False, **sampling)
        marks.append(time.perf_counter())
        ids = torch.stack([r.clamp(3, 50000)[-new:] for r in responses])
        with torch.no_grad():
            scores = reward(input_ids=ids).logits[:, 0].float()
        marks.append(time.perf_counter())
        trainer.step(queries, responses, list(scores))
        marks.append(time.perf_counter())
        if step > 0:
            for phase, start, end in zip(totals, marks, marks[1:]):
                totals[phase] += (end - start) / arguments.steps
    return {"sec_per_step": sum(totals.values()), **totals, "peak_memory_bytes": side_by_side.peak_memory_bytes()}


def measure_rlaif(arguments) -> dict:
    root = Path(arguments.models)
    command = [
        arguments.rlaif, "bench", "ppo", "--model", root / arguments.model, "--reward", root / "roberta-base", "--batch-size", arguments.batch_size,
        "--minibatch-size", arguments.minibatch_size, "--epochs", arguments.epochs, "--prompt-len", "64-128", "--new-tokens", arguments.new_tokens,
        "--steps", arguments.steps, "--dtype", arguments.dtype, "--threads", arguments.threads, "--json",
    ]
    found = side_by_side.run_json([str(part) for part in command], arguments.threads)
    return {"sec_per_step": found["sec_per_step"], **found["phases"], "peak_memory_bytes": found["peak_memory_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models")
    parser.add_argument("--python", help="interpreter with TRL; without it ours alone is timed")
    parser.add_argument("--rlaif", required=False, default="../../target/release/rlaif")
    parser.add_argument("--only", action="append", help="MODEL:DTYPE, such as t5-small:f32; may be given several times")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--minibatch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=["trl", "rlaif"], help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_trl(arguments) if arguments.measure == "trl" else measure_rlaif(arguments)))
        return

    rows = []
    for model, dtype in CASES:
        if arguments.only and f"{model}:{dtype}" not in arguments.only:
            continue
        shared = [arguments.models, "--model", model, "--dtype", dtype]
        for flag in ("batch_size", "minibatch_size", "epochs", "new_tokens", "steps", "threads"):
            shared += [f"--{flag.replace('_', '-')}", str(getattr(arguments, flag))]
        commands = {"rlaif": [sys.executable, __file__, *shared, "--measure", "rlaif", "--rlaif", arguments.rlaif]}
        if arguments.python:
            commands["TRL 0.11.4"] = [arguments.python, __file__, *shared, "--measure", "trl"]
        found = side_by_side.in_turn(commands, arguments.rounds, arguments.threads)
        for name, numbers in found.items():
            baseline = found.get("TRL 0.11.4", numbers)
            rows.append([
                model, dtype, name, *(numbers[key] for key in ("sec_per_step", "generate", "reward", "update")),
                f"{baseline['sec_per_step'] / numbers['sec_per_step']:.2f}", round(numbers["peak_memory_bytes"] / 2**20),
                f"{numbers['peak_memory_bytes'] / baseline['peak_memory_bytes']:.2f}",
            ])
    side_by_side.print_table(
        ["model", "dtype", "program", "s/step", "generate", "reward", "update", "times faster", "peak MiB", "share of memory"], rows
    )


if __name__ == "__main__":
    main()
