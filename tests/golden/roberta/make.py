"""Writes beside it a tiny XLM-R's folder and a tiny RoBERTa's as transformers saves them, `source/` and
`target/`, and in golden.safetensors and golden.json what transformers computes from them: the first reads,
the second writes with cross-attention behind its layers, masked and causal, with losses and the gradients
of all weights; and how they spell texts.

Made with torch 2.11.0 and transformers 5.17.0:  python tests/golden/roberta/make.py
"""

import json
import math
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM, XLMRobertaConfig,
    XLMRobertaForMaskedLM)

HERE = Path(__file__).parent
WIDTH, HEADS, INNER, LAYERS, POSITIONS, LENGTHS = 8, 2, 12, 2, 34, 11
SMOOTHING, LENGTH_LOSS = 0.1, 0.3
PAD, FIRST_WORD = 1, 5
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
DIGITS = {"source": "null eins zwei drei vier fünf sechs sieben acht neun",
          "target": "zero one two three four five six seven eight nine"}
TEXTS = ["one two three .", "eins zwei Über .", "  spaces   everywhere ", "naïve – 東京 \U0001f600",
         "don't <mask> stop </s>\nhere\t.", "", " ", "x"]

torch.manual_seed(20190726)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=290, min_frequency=1, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def folder(side, tokenizer, trainer, model_class, config_class):
    path, digits = HERE / side, DIGITS[side].split()
    path.mkdir(exist_ok=True)
    tokenizer.train_from_iterator([f"{one} {other} ." for one in digits for other in digits], trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    config = config_class(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=POSITIONS,
        type_vocab_size=1, layer_norm_eps=1e-5, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0)
    config._attn_implementation = "eager"
    model = model_class(config)
    for parameter in model.parameters():
        # Far from 0, so that each of them matters.
        parameter.data = parameter.data + torch.randn(parameter.shape) * 0.2
    model.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return model.eval().double()


source_model = folder("source", *unigram(), XLMRobertaForMaskedLM, XLMRobertaConfig)
target_model = folder("target", *byte_level(), RobertaForMaskedLM, RobertaConfig)

torch.set_default_dtype(torch.float64)  # the golden's own rounding is then no error
table = nn.Parameter(torch.randn(LENGTHS, WIDTH) * 0.5)
cross = nn.ModuleList(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(LAYERS))
norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))


# By BERT's names. The head's matrix is the word embeddings, its bias is its decoder's.
HEAD = {"dense": "transform.dense", "layer_norm": "transform.LayerNorm"}
named = [("encoder.length_embedding.weight", table, slice(None))]
for side, model in [("encoder", source_model), ("decoder", target_model)]:
    named += [(f"{side}.bert.{name}", parameter, slice(None))
              for name, parameter in model.roberta.named_parameters()]
named += [("decoder.cls.predictions.bias", target_model.lm_head.bias, slice(None))]
for own, bert in HEAD.items():
    named += [(f"decoder.cls.predictions.{bert}.{part}", parameter, slice(None))
              for part, parameter in getattr(target_model.lm_head, own).named_parameters()]
for i in range(LAYERS):
    scope = f"decoder.layer.{i}.cross_attention"
    for part, short in enumerate(["query", "key", "value"]):
        rows = slice(part * WIDTH, (part + 1) * WIDTH)
        named += [(f"{scope}.{short}.weight", cross[i].in_proj_weight, rows),
                  (f"{scope}.{short}.bias", cross[i].in_proj_bias, rows)]
    for name, module in [("output", cross[i].out_proj), ("norm", norms[i])]:
        named += [(f"{scope}.{name}.{part}", parameter, slice(None))
                  for part, parameter in module.named_parameters()]
for name, parameter, _ in named[:1] + [entry for entry in named if "cross_attention" in entry[0]]:
    parameter.data = (parameter.data + torch.randn(parameter.shape) * 0.2).float().double()


def additive(hidden, causal=False):
    hidden = hidden[:, None, None, :]
    if causal:
        hidden = hidden | torch.ones(hidden.shape[-1], hidden.shape[-1], dtype=torch.bool).triu(1)
    return torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)


def rows(words, lengths):
    ids = torch.randint(FIRST_WORD, words, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return torch.where(real, ids, PAD), real


def read(x, real):
    for layer in source_model.roberta.encoder.layer:
        x = layer(x, attention_mask=additive(~real))
    return x


def write(ids, real, memory, memory_real, causal):
    bert = target_model.roberta
    x = bert.embeddings(input_ids=ids)
    for i, layer in enumerate(bert.encoder.layer):
        x = layer(x, attention_mask=additive(~real, causal))
        seen = cross[i](x, memory, memory, key_padding_mask=~memory_real, need_weights=False)[0]
        x = norms[i](x + seen)
    return target_model.lm_head(x)


source, source_real = rows(source_model.config.vocab_size, [7, 4, 6])
target, target_real = rows(target_model.config.vocab_size, [5, 6, 2])
chosen = target_real & (torch.rand(target.shape) < 0.6)
tensors = {}


def put(name, value):
    value = value.detach().clone().contiguous()
    tensors[name] = value.float() if value.is_floating_point() else value


def without_padding(ids):
    """The tests' padding is 0."""
    return ids.where(ids != PAD, 0)


def put_gradients(objective):
    for name, parameter, part in named:
        if parameter.grad is not None:
            put(f"{objective}.gradient.{name}", parameter.grad[part])
    for _, parameter, _ in named:
        parameter.grad = None


def smoothed(logits, labels):
    return nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="sum")


put("source", without_padding(source))
put("target", without_padding(target))
for name, parameter, part in named:
    put(f"weight.{name}", parameter[part])
embedded = source_model.roberta.embeddings(input_ids=source)

# Autoregressive: [first] and the target without its last token, all tokens predicted.
shifted = torch.cat([torch.full((3, 1), SPECIAL.index("</s>")), target[:, :-1]], 1)
shifted = shifted.where(target_real, PAD)
memory = read(embedded, source_real)
logits = write(shifted, target_real, memory, source_real, causal=True)
loss = smoothed(logits[target_real], target[target_real])
loss.backward(retain_graph=True)
put("autoregressive.input", without_padding(shifted))
put("autoregressive.memory", memory)
put("autoregressive.logits", logits)
put("autoregressive.loss", loss)
put_gradients("autoregressive")

# Masked: some tokens are <mask> and predicted, and so is the length.
masked = torch.where(chosen, SPECIAL.index("<mask>"), target)
extended = torch.cat([table[0].expand(3, 1, -1), embedded], 1)
extended_real = torch.cat([torch.ones(3, 1, dtype=torch.bool), source_real], 1)
hidden = read(extended, extended_real)
length_logits = hidden[:, 0] @ table.T
length_logits[:, 0] = -math.inf
length_log_probs = length_logits.log_softmax(-1)
logits = write(masked, target_real, hidden[:, 1:], source_real, causal=False)
length_loss = -length_log_probs[range(3), target_real.sum(1)].sum()
loss = smoothed(logits[chosen], target[chosen]) + LENGTH_LOSS * length_loss
loss.backward()
put("masked.input", without_padding(masked))
put("masked.chosen", chosen.to(torch.int64))
put("masked.memory", hidden[:, 1:])
put("masked.length_log_probs", length_log_probs)
put("masked.logits", logits)
put("masked.loss", loss)
put_gradients("masked")
save_file(tensors, HERE / "golden.safetensors")

cases = {}
for side in DIGITS:
    fast = PreTrainedTokenizerFast(tokenizer_file=str(HERE / side / "tokenizer.json"))
    cases[side] = []
    for text in TEXTS:
        # A special token in a text is only text.
        ids = fast(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        # A unigram model knows them as pieces all the same.
        ids = [SPECIAL.index("<unk>") if id < FIRST_WORD else id for id in ids]
        cases[side].append({"text": text, "ids": ids, "decoded": fast.decode(ids).strip()})
cases["prefix_space"] = []
FAST = "PreTrainedTokenizerFast"
for before in [False, True]:
    for beside in [None, {}, {"add_prefix_space": True}, {"add_prefix_space": False},
                   {"tokenizer_class": "RobertaTokenizer"}, {"tokenizer_class": FAST},
                   {"tokenizer_class": FAST, "add_prefix_space": not before}]:
        with tempfile.TemporaryDirectory() as name:
            shutil.copy(HERE / "target" / "config.json", name)
            content = json.loads((HERE / "target" / "tokenizer.json").read_text())
            content["pre_tokenizer"]["add_prefix_space"] = before
            (Path(name) / "tokenizer.json").write_text(json.dumps(content))
            if beside is not None:
                (Path(name) / "tokenizer_config.json").write_text(json.dumps(beside))
            ids = AutoTokenizer.from_pretrained(name)("one two", add_special_tokens=False)["input_ids"]
        cases["prefix_space"].append({"json": before, "config": beside, "ids": ids})
(HERE / "golden.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
print(sum(tensor.numel() for tensor in tensors.values()), "numbers")
