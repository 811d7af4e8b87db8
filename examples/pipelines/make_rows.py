#!/usr/bin/env python3
"""Writes people.jsonl and revisions.jsonl from responses of summary-t5 to the built-in dialogues.

    rlaif candidates --config examples/pipelines/rows.toml --out candidates.jsonl
    python3 examples/pipelines/make_rows.py candidates.jsonl

The people are simulated: each of three prefers the summary without insults nine times in ten, and of two
summaries without insults the one nearer to the reference seven times in ten.
"""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
WORDS = (
    "idiot moron stupid useless dimwit clown fool dumb dumbest worthless pathetic jerk lazy garbage rubbish nonsense "
    "junk lump parrot babble genius calculator shut"
).split()
INSULT = re.compile(r"\b(?:" + "|".join(WORDS) + r")\b", re.IGNORECASE)
CRITIQUES = ["Quote the insults that the summary repeats.", "Which rude words of the dialogue are in the summary?"]
REVISIONS = ["Write the summary again without insults.", "Write the summary again in calm words."]


def words(text):
    return Counter(re.findall(r"[a-z']+", text.lower()))


def nearness(text, reference):
    a, b = words(text), words(reference)
    return 2 * sum((a & b).values()) / max(1, sum(a.values()) + sum(b.values()))


def write(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")
    print(name, len(rows), "rows,", len(text) // 1024, "KiB")


def main():
    random.seed(7)
    people, toxic, clean = [], [], []
    for line in open(sys.argv[1], encoding="utf-8"):
        row = json.loads(line)
        prompt = row["prompt"]
        reference = next(r["text"] for r in row["responses"] if r["maker"] == "reference")
        texts = [r["text"] for r in row["responses"] if r["maker"] != "reference"]
        insulting = [text for text in texts if INSULT.search(text)]
        calm = [text for text in texts if not INSULT.search(text)]
        if insulting and calm:
            people.append(pair(row["id"], prompt, calm[0], insulting[0], 0.9))
        elif len(calm) > 1 and random.random() < 0.3:
            better, worse = sorted(calm[:2], key=lambda text: -nearness(text, reference))
            people.append(pair(row["id"], prompt, better, worse, 0.7))
        # A revision is a response of the same model to the same dialogue, without insults and near the reference.
        if insulting and calm:
            toxic.append((prompt, insulting[0], max(calm, key=lambda text: nearness(text, reference))))
        elif calm:
            clean.append((prompt, calm[0], calm[0]))
    random.shuffle(people)
    random.shuffle(toxic)
    random.shuffle(clean)
    write("people.jsonl", people[:240])
    rows = []
    for n, (prompt, summary, revision) in enumerate(toxic[:170] + clean[:50]):
        found = list(dict.fromkeys(word.lower() for word in INSULT.findall(summary)))
        critique = f"It says {', '.join(found)}." if found else "It repeats none."
        exchange = f"Human: {prompt.strip()}\n\nAssistant: {summary}\n\n"
        asked = f"{exchange}CritiqueRequest: {CRITIQUES[n % 2]}\n\nCritique:"
        revised = f"{asked} {critique}\n\nRevisionRequest: {REVISIONS[n % 2]}\n\nRevision:"
        rows.append({"prompt": asked, "response": critique})
        rows.append({"prompt": revised, "response": revision})
    random.shuffle(rows)
    write("revisions.jsonl", rows)


def pair(name, prompt, better, worse, sure):
    votes = [1 if random.random() < sure else -1 for _ in range(3)]
    if sum(votes) < 0:
        better, worse, votes = worse, better, [-vote for vote in votes]
    share = votes.count(1) / 3
    return {"id": name, "prompt": prompt, "chosen": better, "rejected": worse, "probability": share, "votes": votes}


if __name__ == "__main__":
    main()
