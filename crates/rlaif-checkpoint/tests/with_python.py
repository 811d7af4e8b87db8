"""The Python half of `with_python.rs`: makes tiny models, and loads what Rust saved.

    python with_python.py make FOLDER     models, an adapter, and what they compute
    python with_python.py check FOLDER    loads FOLDER/saved_* and compares
"""

import pathlib
import sys

import torch
import torch.distributed.tensor  # peft uses it, and relies on others to import it
import transformers
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open

IDS = torch.tensor([[3, 4, 5, 6, 7]])


def make(folder):
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=32, tie_word_embeddings=True,
        )
    ).eval()
    llama.save_pretrained(folder / "llama")
    torch.save(llama(IDS).logits, folder / "llama.pt")

    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2, vocab_size=32)
    ).eval()
    t5.save_pretrained(folder / "t5")
    # As older checkpoints have it: pickled, with the tied weights under every name.
    (folder / "t5" / "model.safetensors").unlink()
    torch.save(t5.state_dict(), folder / "t5" / "pytorch_model.bin")
    torch.save(t5(input_ids=IDS, decoder_input_ids=IDS).logits, folder / "t5.pt")

    config = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2}, init_lora_weights=False,
    )
    adapted = get_peft_model(llama, config).eval()
    adapted.save_pretrained(folder / "adapter")
    torch.save(adapted(IDS).logits, folder / "adapter.pt")


def check(folder):
    def same(logits, name):
        expected = torch.load(folder / f"{name}.pt")
        assert torch.equal(logits, expected), (name, (logits - expected).abs().max())

    for name, model_class in (
        ("llama", transformers.LlamaForCausalLM), ("t5", transformers.T5ForConditionalGeneration),
    ):
        saved = folder / f"saved_{name}"
        model, info = model_class.from_pretrained(saved, output_loading_info=True)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[problem], (name, problem, info[problem])
        model.eval()
        inputs = {"decoder_input_ids": IDS} if name == "t5" else {}
        same(model(input_ids=IDS, **inputs).logits, name)
        assert transformers.GenerationConfig.from_pretrained(saved) is not None

    shards = sorted((folder / "saved_llama").glob("model-*.safetensors"))
    assert len(shards) > 1, "sharded"
    for shard in shards:
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}

    base = transformers.LlamaForCausalLM.from_pretrained(folder / "saved_llama")
    adapted = PeftModel.from_pretrained(base, folder / "saved_adapter").eval()
    same(adapted(IDS).logits, "adapter")

    card = ModelCard.load(folder / "saved_llama" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == ["some/base", "no"]
    assert card.data.tags == ["rlaif", "a: b", "1.0"]
    assert card.data.library_name == "transformers"
    assert "## Training" in card.text
    print("all the same")


{"make": make, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
