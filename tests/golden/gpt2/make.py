"""Writes beside it a tiny GPT-2's folder as transformers saves it, `folder/`, and in
golden.safetensors and golden.json what transformers computes from it: behind a BERT that reads,
with cross-attention, logits, loss and the gradients of what is trained; and how it spells texts.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/gpt2/make.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
FOLDER = HERE / "folder"
WIDTH, HEADS, INNER, LAYERS, SOURCE_WORDS = 8, 2, 12, 2, 23
END = "<|endoftext|>"
DIGITS = "zero one two three four five six seven eight nine"
TEXTS = [
    "one two three .", "Nine, eight (seven)!", "  spaces   everywhere ", "naïve – 東京 \U0001f600",
    "don't <|endoftext|> stop\nhere\t.", "", " ", "x",
]

torch.manual_seed(20190214)
tokenizer = ByteLevelBPETokenizer()
lines = [f"{digit} {other} ." for digit in DIGITS.split() for other in DIGITS.split()]
tokenizer.train_from_iterator(lines, vocab_size=290, min_frequency=1, special_tokens=[END])
FOLDER.mkdir(exist_ok=True)
tokenizer.save(str(FOLDER / "tokenizer.json"))

config = GPT2Config(
    vocab_size=tokenizer.get_vocab_size(), n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER,
    n_positions=48, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, bos_token_id=0, eos_token_id=0)
plain = GPT2LMHeadModel(config)
for parameter in plain.parameters():
    parameter.data = parameter.data + torch.randn(parameter.shape) * 0.2
plain.save_pretrained(FOLDER)
(FOLDER / "generation_config.json").unlink(missing_ok=True)

torch.set_default_dtype(torch.float64)  # the golden's own rounding is then no error
tensors = {}


def put(name, value):
    value = value.detach().clone().contiguous()
    tensors[name] = value.float() if value.is_floating_point() else value


config.add_cross_attention = True
model = GPT2LMHeadModel(config).eval()
model.load_state_dict(plain.state_dict(), strict=False)
bert = BertModel(BertConfig(
    vocab_size=SOURCE_WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    intermediate_size=INNER, max_position_embeddings=32), add_pooling_layer=False).eval()
model, bert = model.double(), bert.double()
for name, parameter in [*model.named_parameters(), *bert.named_parameters()]:
    if "cross" in name or "transformer." not in name:
        parameter.data = parameter.data + torch.randn(parameter.shape) * 0.3
    parameter.data = parameter.data.float().double()  # as they are stored


def adapters(value):
    """What is trained, or its gradients, by our names."""
    for i, layer in enumerate(model.transformer.h):
        cross, norm = layer.crossattention, layer.ln_cross_attn
        scope = f"decoder.layer.{i}.cross_attention"
        keys, values = value(cross.c_attn.weight).chunk(2, 1)
        key_bias, value_bias = value(cross.c_attn.bias).chunk(2)
        for name, weight, bias in [
                ("query", value(cross.q_attn.weight), value(cross.q_attn.bias)),
                ("key", keys, key_bias), ("value", values, value_bias),
                ("output", value(cross.c_proj.weight), value(cross.c_proj.bias))]:
            yield f"{scope}.{name}.weight", weight.T
            yield f"{scope}.{name}.bias", bias
        yield f"{scope}.norm.weight", value(norm.weight)
        yield f"{scope}.norm.bias", value(norm.bias)


def rows(first, words, lengths):
    ids = torch.randint(first, words, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids * real, real


source, source_real = rows(1, SOURCE_WORDS, [7, 4, 6])
target, target_real = rows(1, config.vocab_size, [5, 6, 2])
shifted = torch.cat([torch.zeros(3, 1, dtype=torch.int64), target[:, :-1]], 1)
memory = bert(source, attention_mask=source_real.to(torch.int64)).last_hidden_state
logits = model(
    input_ids=shifted, encoder_hidden_states=memory,
    encoder_attention_mask=source_real.to(torch.int64)).logits
loss = nn.functional.cross_entropy(
    logits[target_real], target[target_real], label_smoothing=0.1, reduction="sum")
loss.backward()
put("source", source)
put("target", target)
put("autoregressive.input", shifted * target_real)
put("autoregressive.memory", memory)
put("autoregressive.logits", logits)
put("autoregressive.loss", loss)
for name, parameter in bert.named_parameters():
    put(f"weight.encoder.bert.{name}", parameter)
    put(f"autoregressive.gradient.encoder.bert.{name}", parameter.grad)
for name, value in adapters(lambda parameter: parameter):
    put(f"weight.{name}", value)
for name, value in adapters(lambda parameter: parameter.grad):
    put(f"autoregressive.gradient.{name}", value)
save_file(tensors, HERE / "golden.safetensors")

fast = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"))
cases = []
for text in TEXTS:
    # A special token in a text is only text.
    ids = fast(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    cases.append({"text": text, "ids": ids, "decoded": fast.decode(ids)})
(HERE / "golden.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
print(sum(tensor.numel() for tensor in tensors.values()), "numbers")
