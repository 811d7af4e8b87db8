"""Times transformers' forward and forward+backward against `rlaif bench forward`, in turn, in one run.

    python forward.py MODELS --python PYTHON --rlaif RLAIF

MODELS is what make_models.py and make_families.py wrote. PYTHON is an interpreter with torch and transformers. Without --rlaif only transformers is timed.
What is timed, on random ids without padding, dropout off, gradients dropped before each pass:

| model | rows | forward | forward+backward |
|---|---|---|---|
| t5-small | prompt 128, response 32 | log-probs of the 32 response tokens, no gradient | mean of -log-prob over all response tokens; gradients of every parameter |
| llama-small, other language models | prompt 128, response 32 (160 ids) | the same; logits at the 32 predicting positions only | the same |
| roberta-base, other classifiers | 128 ids | logits | mean cross-entropy of random labels; gradients of every parameter |

Each process makes one pass of either kind before it measures, and reports the median of its passes; the table has the median of the rounds. Ours is called as

    rlaif bench forward --model DIR --batch-size B --prompt-len P --new-tokens N --dtype f32|bf16 --steps R --threads T --json

(a classifier: the sequence length as --prompt-len, and --new-tokens 0) and prints {"forward_s", "forward_backward_s", "peak_memory_bytes"}.
"""

import inspect
import json
import statistics
import time
from pathlib import Path

import side_by_side

MODELS = ["t5-small", "llama-small", "roberta-base"]
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def tokens(folder: Path) -> tuple[int, int]:
    """The tokens of a prompt and of a response; a classifier has no response."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return 128, 0 if architecture.endswith("ForSequenceClassification") else 32


def load(folder: str, dtype: str):
    """The model in `dtype`, in eval mode, whichever transformers this is."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    keyword = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
    return model_class.from_pretrained(folder, **{keyword: getattr(torch, DTYPES[dtype])}).eval()


def loss_function(model, batch: int, prompt_len: int, response_len: int):
    """A function without arguments that makes one forward pass and returns the scalar loss."""
    import torch

    random = torch.Generator().manual_seed(1)

    def ids(length: int):
        return torch.randint(10, model.config.vocab_size, (batch, length), generator=random)

    prompt = ids(prompt_len)
    if response_len == 0:
        labels = torch.randint(0, model.config.num_labels, (batch,), generator=random)
        mask = torch.ones_like(prompt)
        return lambda: torch.nn.functional.cross_entropy(model(input_ids=prompt, attention_mask=mask).logits.float(), labels)

    response = ids(response_len)

    def mean_negative_log_prob(logits):
        return -logits.float().log_softmax(-1).gather(-1, response[..., None]).mean()

    if model.config.is_encoder_decoder:
        start = torch.full((batch, 1), model.config.decoder_start_token_id)
        inputs = dict(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), decoder_input_ids=torch.cat([start, response[:, :-1]], 1), use_cache=False,
        )
        return lambda: mean_negative_log_prob(model(**inputs).logits)

    whole = torch.cat([prompt, response], 1)
    keep = next(name for name in ("logits_to_keep", "num_logits_to_keep") if name in inspect.signature(model.forward).parameters)
    inputs = dict(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False, **{keep: response_len + 1})
    return lambda: mean_negative_log_prob(model(**inputs).logits[:, :-1])


def median_seconds(action, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure_transformers(arguments) -> dict:
    import torch

    torch.set_num_threads(arguments.threads)
    model = load(arguments.models, arguments.dtype)
    loss = loss_function(model, arguments.batch_size, arguments.prompt_len, arguments.new_tokens)

    def forward():
        with torch.no_grad():
            loss()

    def forward_backward():
        model.zero_grad(set_to_none=True)
        loss().backward()

    return {
        "forward_s": median_seconds(forward, arguments.steps),
        "forward_backward_s": median_seconds(forward_backward, arguments.steps),
        "peak_memory_bytes": side_by_side.peak_memory_bytes(),
    }


def compare(arguments) -> None:
    rows = []
    shapes = []
    for name in arguments.only or MODELS:
        prompt_len, response_len = tokens(Path(arguments.models) / name)
        # With lengths, prompts of so many ids, and as short a response as there is.
        shapes += [(name, length, min(response_len, 1)) for length in arguments.lengths or []] or [(name, prompt_len, response_len)]
    for name, prompt_len, response_len in shapes:
        for dtype in arguments.dtypes:
            folder = str(Path(arguments.models) / name)
            shape = [
                "--batch-size", str(arguments.batch_size), "--prompt-len", str(prompt_len), "--new-tokens", str(response_len),
                "--dtype", dtype, "--steps", str(arguments.steps), "--threads", str(arguments.threads),
            ]
            commands = {"transformers": [arguments.python, str(Path(__file__).resolve()), folder, "--child", *shape]}
            if arguments.rlaif:
                commands["rlaif"] = [arguments.rlaif, "bench", "forward", "--model", folder, *shape, "--json"]
            results = side_by_side.in_turn(commands, arguments.rounds, arguments.threads)
            for key, label in (("forward_s", "forward"), ("forward_backward_s", "forward+backward")):
                theirs, ours = (results.get(who, {}).get(key) for who in ("transformers", "rlaif"))
                memory = [round(results[who]["peak_memory_bytes"] / 2**20) if who in results else "-" for who in ("transformers", "rlaif")]
                label = f"{label}, {prompt_len} ids" if arguments.lengths else label
                rows.append([name, dtype, label, theirs, ours or "-", theirs / ours if ours else "-", *memory])
    side_by_side.print_table(
        ["model", "dtype", "pass", "transformers s", "rlaif s", "theirs / ours", "transformers MiB", "rlaif MiB"], rows,
    )


def main() -> None:
    parser = side_by_side.parser(__doc__, "torch and transformers")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these folders of MODELS only, such as those of make_families.py")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--lengths", nargs="+", type=int, help="prompts of so many ids each, instead of the table's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed passes of either kind in one process")
    child = parser.add_argument_group("one measurement of transformers, started by this script itself")
    child.add_argument("--child", action="store_true")
    child.add_argument("--prompt-len", type=int)
    child.add_argument("--new-tokens", type=int)
    child.add_argument("--dtype", choices=DTYPES)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_transformers(arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
