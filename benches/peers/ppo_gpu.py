"""PPO on a GPU: `rlaif bench ppo --device cuda` against TRL 0.11.4's PPOTrainer, in turn, in one run.

    python ppo_gpu.py MODELS --python PYTHON --rlaif RLAIF

MODELS is the folder of checkpoints that generate_gpu.py makes: random weights in bf16, in the shapes of flan-t5-base and of a Llama of 1.2 billion parameters. PYTHON has torch
with CUDA, trl 0.11.4, transformers 4.46.3 and peft. What is timed, after one step that is not: prompts of 128 random ids, 64 new tokens for each, sampled at temperature 1 with
end of sequence out of reach; random scores; then log-probabilities and values of policy and reference, and 4 epochs of minibatches. T5 trains all weights beside a copy as the
reference (64 prompts, minibatches of 16), the Llama LoRA adapters of rank 16 on every linear layer, with the adapters off as the reference (32 prompts, minibatches of 8).
TRL runs its own code unchanged with its own defaults; in bf16 it keeps the optimizer's moments in bf16, where ours has f32 moments and master weights.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import side_by_side

PROMPT, NEW, EPOCHS, RANK = 128, 64, 4, 16
CASES = {"t5-base": (64, 16, False), "llama-1b": (32, 8, True)}


def measure_trl(models: Path, model: str, steps: int, device: str) -> dict:
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    from peft import LoraConfig
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import AutoModelForCausalLMWithValueHead, AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    batch, minibatch, lora = CASES[model]
    vocab = json.loads((models / model / "config.json").read_text())["vocab_size"]
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1", unk_token="t2")
    auto = AutoModelForCausalLMWithValueHead if lora else AutoModelForSeq2SeqLMWithValueHead
    adapters = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    policy = auto.from_pretrained(str(models / model), torch_dtype=torch.bfloat16, **({"peft_config": adapters} if lora else {})).to(device)
    reference = None if lora else create_reference_model(policy)
    settings = PPOConfig(learning_rate=1.41e-5, ppo_epochs=EPOCHS, batch_size=batch, mini_batch_size=minibatch, log_with=None)
    trainer = PPOTrainer(config=settings, model=policy, ref_model=reference, tokenizer=tokenizer)
    sampling = dict(min_new_tokens=NEW, max_new_tokens=NEW, top_k=0.0, top_p=1.0, do_sample=True, pad_token_id=0)
    totals = {"generate": 0.0, "update": 0.0}
    for step in range(steps + 1):
        queries = list(torch.randint(10, vocab, (batch, PROMPT), device=device))
        marks = [time.perf_counter()]
        responses = trainer.generate(queries, batch_size=batch, return_prompt=False, **sampling)
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        trainer.step(queries, responses, list(torch.randn(batch, device=device)))
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        if step > 0:
            for phase, start, end in zip(totals, marks, marks[1:]):
                totals[phase] += (end - start) / steps
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else side_by_side.peak_memory_bytes()
    return {"sec_per_step": sum(totals.values()), **totals, "peak_memory_bytes": peak}


def measure_rlaif(rlaif: str, models: Path, model: str, steps: int, device: str) -> dict:
    batch, minibatch, lora = CASES[model]
    command = [
        rlaif, "bench", "ppo", "--model", models / model, "--device", device, "--dtype", "bf16", "--batch-size", batch, "--minibatch-size", minibatch, "--epochs", EPOCHS,
        "--prompt-len", PROMPT, "--new-tokens", NEW, "--steps", steps, "--json", *(["--lora", RANK] if lora else []),
    ]
    found = side_by_side.run_json([str(part) for part in command], 8)
    phases = {phase: found["phases"][phase] for phase in ("generate", "update")}
    return {"sec_per_step": found["sec_per_step"], **phases, "peak_memory_bytes": found["peak_memory_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", type=Path)
    parser.add_argument("--python", help="interpreter with TRL; without it ours alone is timed")
    parser.add_argument("--rlaif", default="../../target/release/rlaif")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda", help="cpu to try it without a GPU, on small checkpoints")
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--measure", choices=["trl", "rlaif"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "trl":
        print(json.dumps(measure_trl(arguments.models, arguments.only, arguments.steps, arguments.device)))
        return
    if arguments.measure == "rlaif":
        print(json.dumps(measure_rlaif(arguments.rlaif, arguments.models, arguments.only, arguments.steps, arguments.device)))
        return

    rows = []
    for model, (batch, _, _) in CASES.items():
        if arguments.only not in (None, model):
            continue
        shared = [str(arguments.models), "--only", model, "--steps", str(arguments.steps), "--rlaif", arguments.rlaif, "--device", arguments.device]
        commands = {"rlaif": [sys.executable, __file__, *shared, "--measure", "rlaif"]}
        if arguments.python:
            commands["TRL 0.11.4"] = [arguments.python, __file__, *shared, "--measure", "trl"]
        found = side_by_side.in_turn(commands, 1, 8)
        for name, numbers in found.items():
            ratio = found.get("TRL 0.11.4", numbers)["sec_per_step"] / numbers["sec_per_step"]
            rows.append([
                model, name, numbers["sec_per_step"], numbers["generate"], numbers["update"], round(batch / numbers["sec_per_step"], 1), f"{ratio:.2f}",
                round(numbers["peak_memory_bytes"] / 2**20),
            ])
            print(rows[-1], flush=True)
    side_by_side.print_table(["model", "program", "s/step", "generate", "update", "samples/s", "times faster", "peak MiB"], rows)


if __name__ == "__main__":
    main()
