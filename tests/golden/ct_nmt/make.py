"""Writes golden.safetensors beside it: a tiny Transformer out of PyTorch's own layers, trained
together with a BERT out of transformers by CT-NMT's dynamic switch and asymptotic distillation (Yang
et al. 2020), with its output, loss and gradients.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/ct_nmt/make.py
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

WIDTH, HEADS, INNER, LAYERS = 8, 2, 12, 2
SOURCE_WORDS, TARGET_WORDS, CLS = 23, 19, 2
SMOOTHING, DISTILLATION = 0.1, 0.3

torch.manual_seed(20190815)
torch.set_default_dtype(torch.float64)  # the golden's own rounding is then no error
tensors = {}


def put(name, value):
    value = value.detach().clone().contiguous()
    tensors[name] = value.float() if value.is_floating_point() else value


def random(*shape):
    return nn.Parameter(torch.randn(*shape) * 0.5)


settings = dict(d_model=WIDTH, nhead=HEADS, dim_feedforward=INNER, dropout=0.0, batch_first=True)
encoder = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(**settings), LAYERS, enable_nested_tensor=False)
decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**settings), LAYERS)
gate_of_bert = nn.Linear(WIDTH, WIDTH, bias=False)
gate_of_own = nn.Linear(WIDTH, WIDTH)
bert = BertModel(BertConfig(
    vocab_size=SOURCE_WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), add_pooling_layer=False)
source_words, target_words = random(SOURCE_WORDS, WIDTH), random(TARGET_WORDS, WIDTH)
target_positions = random(32, WIDTH)
modules = [encoder, decoder, gate_of_bert, gate_of_own, bert]
for parameter in [parameter for module in modules for parameter in module.parameters()]:
    parameter.data = parameter.data + torch.randn(parameter.shape) * 0.2
for parameter in [*(parameter for module in modules for parameter in module.parameters()),
                  source_words, target_words, target_positions]:
    parameter.data = parameter.data.float().double()  # as they are stored


def attention(name, module, value):
    weights, biases = value(module.in_proj_weight).chunk(3), value(module.in_proj_bias).chunk(3)
    for part, weight, bias in zip(["query", "key", "value"], weights, biases):
        yield f"{name}.{part}.weight", weight
        yield f"{name}.{part}.bias", bias
    yield f"{name}.output.weight", value(module.out_proj.weight)
    yield f"{name}.output.bias", value(module.out_proj.bias)


def both(name, module, value):
    yield f"{name}.weight", value(module.weight)
    yield f"{name}.bias", value(module.bias)


def of_encoder(index, value):
    layer, scope = encoder.layers[index], f"encoder.layer.{index}"
    yield from attention(f"{scope}.self_attention", layer.self_attn, value)
    yield from both(f"{scope}.self_attention.norm", layer.norm1, value)
    yield from both(f"{scope}.feed_forward.up", layer.linear1, value)
    yield from both(f"{scope}.feed_forward.down", layer.linear2, value)
    yield from both(f"{scope}.feed_forward.norm", layer.norm2, value)


def of_decoder(index, value):
    layer, scope = decoder.layers[index], f"decoder.layer.{index}"
    yield from attention(f"{scope}.self_attention", layer.self_attn, value)
    yield from both(f"{scope}.self_attention.norm", layer.norm1, value)
    yield from attention(f"{scope}.cross_attention", layer.multihead_attn, value)
    yield from both(f"{scope}.cross_attention.norm", layer.norm2, value)
    yield from both(f"{scope}.feed_forward.up", layer.linear1, value)
    yield from both(f"{scope}.feed_forward.down", layer.linear2, value)
    yield from both(f"{scope}.feed_forward.norm", layer.norm3, value)


def of_gate(value):
    yield "encoder.switch.bert.weight", value(gate_of_bert.weight)
    yield from both("encoder.switch.own", gate_of_own, value)


def of_all(value):
    for index in range(LAYERS):
        yield from of_encoder(index, value)
        yield from of_decoder(index, value)
    yield from of_gate(value)
    for name, parameter in bert.named_parameters():
        yield f"fused.bert.{name}", value(parameter)
    yield "encoder.embeddings.word.weight", value(source_words)
    yield "decoder.embeddings.word.weight", value(target_words)
    yield "decoder.embeddings.position.weight", value(target_positions)


def rows(words, lengths):
    ids = torch.randint(1, words, (len(lengths), max(lengths)))
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids * real, real


source, source_real = rows(SOURCE_WORDS, [7, 4, 6])
target, target_real = rows(TARGET_WORDS, [5, 6, 2])
put("source", source)
put("target", target)
for name, value in of_all(lambda parameter: parameter):
    put(f"weight.{name}", value)

half = WIDTH // 2
angles = torch.arange(source.shape[1])[:, None] * torch.exp(
    torch.arange(half) * -(math.log(10000) / (half - 1)))
embedded = source_words[source] * WIDTH**0.5 + torch.cat([angles.sin(), angles.cos()], 1)
read = torch.cat([torch.full((3, 1), CLS), source], 1)
real = torch.cat([torch.ones(3, 1, dtype=torch.bool), source_real], 1)
seen = bert(read, attention_mask=real.to(torch.int64)).last_hidden_state[:, 1:]
gate = torch.sigmoid(gate_of_bert(seen) + gate_of_own(embedded))
memory = encoder(gate * seen + (1 - gate) * embedded, src_key_padding_mask=~source_real)
shifted = torch.cat([torch.full((3, 1), 2), target[:, :-1]], 1) * target_real
length = shifted.shape[1]
logits = decoder(
    target_words[shifted] * WIDTH**0.5 + target_positions[:length], memory,
    tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
    tgt_key_padding_mask=~target_real, memory_key_padding_mask=~source_real) @ target_words.T
words = nn.functional.cross_entropy(
    logits[target_real], target[target_real], label_smoothing=SMOOTHING, reduction="sum")
words = words / target_real.sum()
distance = ((memory - seen.detach()) ** 2).sum(-1)[source_real].mean()
loss = (1 - DISTILLATION) * words + DISTILLATION * distance
loss.backward()
put("autoregressive.input", shifted)
put("autoregressive.memory", memory)
put("autoregressive.logits", logits)
put("autoregressive.loss", loss)
for name, value in of_all(lambda parameter: parameter.grad):
    put(f"autoregressive.gradient.{name}", value)

save_file(tensors, Path(__file__).with_name("golden.safetensors"))
print(sum(tensor.numel() for tensor in tensors.values()), "numbers,",
      sum("gradient" in name for name in tensors), "gradients")
