"""Times transformers' generate and CTranslate2 against `rlaif bench generate`, in turn, in one run.

    python generate.py MODELS --python 4.46=PYTHON --python 5.23=PYTHON --ctranslate2 PYTHON --rlaif RLAIF

MODELS is what make_models.py wrote; each PYTHON an interpreter with torch and transformers, that of --ctranslate2 with ctranslate2 and transformers 4.46.
What is timed: 16 prompts of random ids, 64 to 128 long (the same lengths for everyone), 32 new tokens for each, sampled at temperature 1 from the
whole vocabulary, end of sequence ignored. One call is made before those that count. Ours is called as

    rlaif bench generate --model DIR --batch-size 16 --prompt-len 64,101,.. --new-tokens 32 --steps S --dtype f32|bf16 --threads T --json

with one length for each row, and prints {"sec_per_step", .., "tokens_per_s", "peak_memory_bytes"}. CTranslate2 takes part with T5 in f32.
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import side_by_side
from forward import DTYPES, load

MODELS = ["t5-small", "llama-small"]
FIRST_ID, PAD = 10, 0


def prompt_lengths(batch: int) -> list[int]:
    lengths = random.Random(1)
    return [lengths.randint(64, 128) for _ in range(batch)]


def prompts(arguments, vocab_size: int) -> list[list[int]]:
    ids = random.Random(2)
    return [[ids.randrange(FIRST_ID, vocab_size) for _ in range(length)] for length in prompt_lengths(arguments.batch_size)]


def report(call, arguments) -> dict:
    seconds = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        produced = call()
        seconds.append(time.perf_counter() - start)
        if produced != arguments.batch_size * arguments.new_tokens:
            raise SystemExit(f"{produced} tokens were generated, not {arguments.batch_size} x {arguments.new_tokens}")
    step = statistics.median(seconds[1:])
    return {
        "sec_per_step": step, "tokens_per_s": arguments.batch_size * arguments.new_tokens / step,
        "peak_memory_bytes": side_by_side.peak_memory_bytes(),
    }


def measure_transformers(arguments) -> dict:
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load(arguments.models, arguments.dtype)
    model.generation_config.eos_token_id = None
    rows = prompts(arguments, model.config.vocab_size)
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if model.config.is_encoder_decoder else slice(longest - len(row), longest)
        ids[i, at] = torch.tensor(row)
        mask[i, at] = 1
    given = 1 if model.config.is_encoder_decoder else longest

    def call() -> int:
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=arguments.new_tokens, pad_token_id=PAD,
            )
        return output[:, given:].numel()

    return report(call, arguments)


def measure_ctranslate2(arguments) -> dict:
    import ctranslate2

    translator = ctranslate2.Translator(
        converted(Path(arguments.models)), device="cpu", compute_type="float32", intra_threads=arguments.threads, inter_threads=1,
    )
    vocab_size = json.loads((Path(arguments.models) / "config.json").read_text())["vocab_size"]
    rows = [[f"t{token}" for token in row] for row in prompts(arguments, vocab_size)]

    def call() -> int:
        results = translator.translate_batch(
            rows, beam_size=1, sampling_topk=0, sampling_temperature=1.0, max_batch_size=0,
            min_decoding_length=arguments.new_tokens, max_decoding_length=arguments.new_tokens,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return report(call, arguments)


def converted(source: Path) -> str:
    """The folder of the same model in CTranslate2's format, made once beside it, with a tokenizer of one word for each id."""
    import os
    import shutil
    import tempfile

    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    target = source.with_name(source.name + "-ctranslate2")
    if target.exists():
        return str(target)
    vocab_size = json.loads((source / "config.json").read_text())["vocab_size"]
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t2"))
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        with_tokenizer, output = Path(scratch) / "source", Path(scratch) / "output"
        shutil.copytree(source, with_tokenizer)
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1", unk_token="t2").save_pretrained(with_tokenizer)
        TransformersConverter(str(with_tokenizer)).convert(str(output))
        os.rename(output, target)
    return str(target)


MEASURES = {"transformers": measure_transformers, "ctranslate2": measure_ctranslate2}


def commands_for(arguments, name: str, dtype: str) -> dict[str, list[str]]:
    folder = str(Path(arguments.models) / name)
    sizes = ["--batch-size", str(arguments.batch_size), "--new-tokens", str(arguments.new_tokens), "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    script = [str(Path(__file__).resolve()), folder, "--dtype", dtype, *sizes]
    commands = {}
    for entry in arguments.python:
        label, _, python = entry.partition("=")
        if not python:
            raise SystemExit(f"--python {entry}: write NAME=PATH")
        commands[f"transformers {label}"] = [python, *script, "--child", "transformers"]
    if arguments.ctranslate2 and (name, dtype) == ("t5-small", "f32"):
        commands["CTranslate2"] = [arguments.ctranslate2, *script, "--child", "ctranslate2"]
    if arguments.rlaif:
        lengths = ",".join(map(str, prompt_lengths(arguments.batch_size)))
        commands["rlaif"] = [arguments.rlaif, "bench", "generate", "--model", folder, "--prompt-len", lengths, "--dtype", dtype, *sizes, "--json"]
    return commands


def compare(arguments) -> None:
    rows = []
    for name in arguments.only or MODELS:
        for dtype in arguments.dtypes:
            results = side_by_side.in_turn(commands_for(arguments, name, dtype), arguments.rounds, arguments.threads)
            ours = results.get("rlaif", {}).get("sec_per_step")
            for who, result in results.items():
                seconds = result["sec_per_step"]
                ratio = seconds / ours if ours else "-"
                rows.append([name, dtype, who, seconds, round(result["tokens_per_s"]), round(result["peak_memory_bytes"] / 2**20), ratio])
    side_by_side.print_table(["model", "dtype", "program", "s per batch", "tokens/s", "peak MiB", "its time / ours"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", help="the folder that make_models.py wrote")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a transformers to time; may be given several times")
    parser.add_argument("--ctranslate2", metavar="PATH", help="interpreter with ctranslate2")
    parser.add_argument("--rlaif", help="the rlaif binary, built with --release")
    parser.add_argument("--only", nargs="+", choices=MODELS, help="these models only")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="timed calls in one process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each program")
    parser.add_argument("--threads", type=int, default=2)
    child = parser.add_argument_group("one measurement, started by this script itself")
    child.add_argument("--child", choices=MEASURES)
    child.add_argument("--dtype", choices=DTYPES)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(MEASURES[arguments.child](arguments)))
    elif arguments.python or arguments.ctranslate2 or arguments.rlaif:
        compare(arguments)
    else:
        parser.error("nothing to time: give --python, --ctranslate2 or --rlaif")


if __name__ == "__main__":
    main()
