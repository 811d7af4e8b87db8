"""Scores texts of mixed lengths with a classifier of roberta-base's shape, as a reward does: transformers' pipeline against rlaif's ClassifierReward.

    python classifier.py MODELS --python PYTHON --rlaif target/release/examples/classifier_speed

MODELS is what make_models.py wrote; PYTHON is an interpreter with torch and transformers. The tokenizer is the small one of crates/rlaif-text/tests/fixtures/roberta, so the texts are made of as
many words as give rows of 10 to 300 tokens, evenly. Both sides read the same texts, tokenize them, batch them and return one logit a text, in f32, truncated to 512 tokens; the pipeline as it is called for
rewards (`top_k=None, function_to_apply="none"`), with the batch size given and, since on a CPU that may be faster, with a batch size of 1. What is timed is one call that scores all texts, the model
being loaded and warm; programs take turns, and the table has the median of the rounds. The scores of both are compared.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

TOKENIZER = Path(__file__).resolve().parents[2] / "crates/rlaif-text/tests/fixtures/roberta"
WORDS = "when can I feed my baby solid food most doctors say around six months of age is honey safe for infants".split()


def texts(rows: int) -> list[str]:
    chance = random.Random(7)
    # Three tokens a word, or so.
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 95))) for _ in range(rows)]


def peer(folder: str, file: str, batch_size: int, repeats: int) -> None:
    """What the transformers process does."""
    import transformers

    rows = [json.loads(line) for line in open(file, encoding="utf-8")]
    classify = transformers.pipeline("text-classification", model=folder, tokenizer=folder, device="cpu")

    first = classify.model.config.id2label[0]

    def score(batch):
        outputs = classify(batch, top_k=None, function_to_apply="none", truncation=True, max_length=512, batch_size=batch_size)
        return [next(o["score"] for o in row if o["label"] == first) for row in outputs]

    score(rows[:batch_size])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        scores = score(rows)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds), "scores": scores}))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    arguments.add_argument("models", type=Path)
    arguments.add_argument("--python", default=sys.executable)
    arguments.add_argument("--rlaif", default="target/release/examples/classifier_speed")
    arguments.add_argument("--rows", type=int, default=96)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--repeats", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for file in (options.models / "roberta-base").iterdir():
            (folder / file.name).symlink_to(file.resolve())
        for file in TOKENIZER.iterdir():
            if file.name not in ("config.json", "golden.json"):
                shutil.copy(file, folder / file.name)
        rows = Path(scratch) / "texts.jsonl"
        rows.write_text("".join(json.dumps(text) + "\n" for text in texts(options.rows)))
        here, repeats = str(Path(__file__).resolve()), str(options.repeats)
        commands = {
            f"transformers, batches of {size}": [options.python, here, "--peer", str(folder), str(rows), str(size), repeats]
            for size in (options.batch_size, 1)
        }
        commands["rlaif"] = [options.rlaif, str(folder), str(rows), str(options.batch_size), repeats]
        runs = {name: [side_by_side.run_json(command, options.threads) for _ in range(1)] for name, command in commands.items()}
        for _ in range(options.rounds - 1):
            for name, command in commands.items():
                runs[name].append(side_by_side.run_json(command, options.threads))
    seconds = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    ours = runs["rlaif"][0]["scores"]
    table = []
    for name, of in runs.items():
        difference = max(abs(a - b) for a, b in zip(of[0]["scores"], ours))
        table.append([name, seconds[name], options.rows / seconds[name], seconds[name] / seconds["rlaif"], f"{difference:.0e}"])
    side_by_side.print_table(["", "seconds", "texts/s", "ratio", "largest difference of a score"], table)


if sys.argv[1:2] == ["--peer"]:
    folder, file, batch_size, repeats = sys.argv[2:]
    peer(folder, file, int(batch_size), int(repeats))
else:
    main()
