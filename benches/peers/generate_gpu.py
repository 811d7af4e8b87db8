"""Decoding on a GPU: `rlaif bench generate --device cuda` against transformers, and against what memory bandwidth allows.

    python generate_gpu.py MODELS --rlaif RLAIF --bandwidth 3350

MODELS is a folder for the checkpoints, which are made there if they are missing: random weights in the shapes of flan-t5-base and of a Llama of 1.2 billion parameters, bf16.
A call answers B prompts of 128 random ids, sampled at temperature 1 from the whole vocabulary, end of sequence ignored. It is timed with few and with many new tokens; the
difference is what decoding takes, free of the prompts. The limit: each step reads the decoder's weights and the vocabulary head once, and each row's keys and values at their
mean length, at the bandwidth given in GB/s.

With `--device cpu` the same runs without a GPU, to try it on small checkpoints.

Before that, greedy responses of the tiny checkpoints in fixtures/models are compared with their goldens, on the GPU in f32.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import side_by_side

PROMPT, FEW, MANY = 128, 16, 144
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "models"


def check_goldens(rlaif: str, device: str) -> None:
    for name in ["flan", "t5-v1.0", "llama3", "qwen2-window", "qwen3", "mistral"]:
        goldens = json.loads((FIXTURES / name / "goldens.json").read_text())
        rows = "".join(json.dumps({"prompt_ids": row["prompt_ids"]}) + "\n" for row in goldens["rows"])
        command = [rlaif, "generate", "--model", str(FIXTURES / name), "--input", "-", "--greedy", "--max-new-tokens", "12", "--device", device]
        done = subprocess.run(command, input=rows, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name}: {done.stderr}")
        got = [json.loads(line)["response_ids"] for line in done.stdout.splitlines()]
        if got != goldens["generation"]["runs"]["greedy"]["responses"]:
            raise SystemExit(f"{name}: greedy responses on {device} are not the goldens:\n{got}")
    print(f"greedy responses on {device} equal the goldens", flush=True)


def make(folder: Path, device: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    t5 = T5Config(d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, vocab_size=32128, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    llama = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
        max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    for name, build in [("t5-base", lambda: T5ForConditionalGeneration(t5)), ("llama-1b", lambda: LlamaForCausalLM(llama))]:
        if not (folder / name / "config.json").exists():
            with torch.device(device):
                model = build()
            model.to(torch.bfloat16).save_pretrained(folder / name)


def step_bytes(model, batch: int) -> int:
    """Bytes that a step of decoding reads: the decoder's weights with the head, and keys and values at their mean length."""
    config = model.config
    if config.is_encoder_decoder:
        weights = sum(p.numel() for p in model.decoder.parameters()) - model.shared.weight.numel() + model.lm_head.weight.numel()
        # The cross-attention's keys and values are computed once.
        weights -= sum(m.EncDecAttention.k.weight.numel() * 2 for m in model.decoder.modules() if hasattr(m, "EncDecAttention"))
        width, layers, length = config.num_heads * config.d_kv, config.num_decoder_layers, PROMPT + (FEW + MANY) / 2
    else:
        weights = sum(p.numel() for p in model.parameters())
        width, layers = config.num_key_value_heads * config.hidden_size // config.num_attention_heads, config.num_hidden_layers
        length = PROMPT + (FEW + MANY) / 2
    return int(2 * (weights + 2 * batch * layers * width * length))


def transformers_seconds(model, batch: int, new_tokens: int) -> float:
    import torch

    ids = torch.randint(10, model.config.vocab_size, (batch, PROMPT), device=model.device)
    settings = dict(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
        pad_token_id=0,
    )
    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    best = []
    for _ in range(2):
        wait()
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(**settings)
        wait()
        best.append(time.perf_counter() - start)
    return min(best)


def rlaif_seconds(rlaif: str, folder: Path, device: str, batch: int, new_tokens: int) -> float:
    command = [rlaif, "bench", "generate", "--model", str(folder), "--device", device, "--batch-size", str(batch), "--prompt-len", str(PROMPT)]
    return side_by_side.run_json([*command, "--new-tokens", str(new_tokens), "--steps", "3", "--json"], 8)["sec_per_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", type=Path)
    parser.add_argument("--rlaif", required=True)
    parser.add_argument("--bandwidth", type=float, required=True, help="GB/s of the device's memory")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    check_goldens(arguments.rlaif, arguments.device)
    make(arguments.models, arguments.device)

    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    rows = []
    for name, auto in [("t5-base", AutoModelForSeq2SeqLM), ("llama-1b", AutoModelForCausalLM)]:
        folder = arguments.models / name
        ours = {(b, n): rlaif_seconds(arguments.rlaif, folder, arguments.device, b, n) for b in arguments.batches for n in (FEW, MANY)}
        model = auto.from_pretrained(folder, dtype="bfloat16").to(arguments.device).eval()
        model.generation_config.eos_token_id = None
        for batch in arguments.batches:
            limit = arguments.bandwidth * 1e9 / step_bytes(model, batch) * batch
            theirs = {n: transformers_seconds(model, batch, n) for n in (FEW, MANY)}
            rates = [batch * (MANY - FEW) / (t[MANY] - t[FEW]) for t in ({n: ours[batch, n] for n in (FEW, MANY)}, theirs)]
            rows.append([name, batch, round(rates[0]), f"{rates[0] / limit:.0%}", round(rates[1]), f"{rates[1] / limit:.0%}", rates[0] / rates[1]])
            print(rows[-1], flush=True)
        del model
    side_by_side.print_table(["model", "batch", "rlaif tokens/s", "of the limit", "transformers tokens/s", "of the limit", "ratio"], rows)


if __name__ == "__main__":
    main()
