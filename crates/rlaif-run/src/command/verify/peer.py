"""Computes log-probabilities or logits of rows of ids with transformers, one row at a time, without padding."""

import json
import sys

task = json.load(sys.stdin)

import torch
import transformers

torch.set_grad_enabled(False)
dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[task["dtype"]]
loader = {
    "causal": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "classifier": transformers.AutoModelForSequenceClassification,
}[task["kind"]]
try:
    model = loader.from_pretrained(task["base"], dtype=dtype)
except TypeError:
    # The name of the argument before transformers 4.56.
    model = loader.from_pretrained(task["base"], torch_dtype=dtype)
if task["adapter"]:
    import peft

    # An adapter of another vocabulary, whose file has the rows.
    if model.get_input_embeddings().weight.shape[0] != task["vocabulary"]:
        model.resize_token_embeddings(task["vocabulary"], mean_resizing=False)
    model = peft.PeftModel.from_pretrained(model, task["adapter"])
model.eval()


def picked(logits, ids):
    return logits.float().log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


rows = []
for prompt, response in task["rows"]:
    ids = torch.tensor([prompt])
    if task["kind"] == "classifier":
        rows.append(model(input_ids=ids).logits[0].float().tolist())
    elif task["kind"] == "seq2seq":
        start = torch.tensor([[task["decoder_start"], *response[:-1]]])
        rows.append(picked(model(input_ids=ids, decoder_input_ids=start).logits[0], response))
    else:
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        rows.append(picked(logits[len(prompt) - 1 : -1], response))
print(json.dumps({"version": transformers.__version__, "rows": rows}))
