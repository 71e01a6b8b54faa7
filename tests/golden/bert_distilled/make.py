"""Writes golden.safetensors beside it: both stages of BERT-Distilled (Chen et al. 2020) at tiny size. A
BERT out of transformers reads pairs as one row and predicts masked target tokens: its loss and all
gradients. Then it labels every target token, masked in passes; a Transformer out of PyTorch's own
layers learns from these labels and from the data: its loss and all gradients.

Made with torch 2.13.0 and transformers 5.23.0:  python tests/golden/bert_distilled/make.py
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM

WIDTH, HEADS, INNER, LAYERS, WORDS = 8, 2, 12, 2, 23
CLS, SEP, MASK, FIRST_WORD = 2, 3, 4, 5
TEACHER_POSITIONS = 12  # of which the first pair needs 13
PASSES, TOP, TEMPERATURE, WEIGHT, SMOOTHING = 3, 4, 2.5, 0.4, 0.1

torch.manual_seed(20191110)
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
source_words, target_words, target_positions = (
    random(WORDS, WIDTH), random(WORDS, WIDTH), random(32, WIDTH))
teacher = BertForMaskedLM(BertConfig(
    vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    intermediate_size=INNER, max_position_embeddings=TEACHER_POSITIONS,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
modules = [encoder, decoder, teacher]
for parameter in [parameter for module in modules for parameter in module.parameters()]:
    parameter.data = parameter.data + torch.randn(parameter.shape) * 0.3
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


def of_student(value):
    yield "encoder.embeddings.word.weight", value(source_words)
    yield "decoder.embeddings.word.weight", value(target_words)
    yield "decoder.embeddings.position.weight", value(target_positions)
    for side, stack in [("encoder", encoder), ("decoder", decoder)]:
        for index, layer in enumerate(stack.layers):
            scope = f"{side}.layer.{index}"
            norms = iter([layer.norm1, layer.norm2, getattr(layer, "norm3", None)])
            yield from attention(f"{scope}.self_attention", layer.self_attn, value)
            yield from both(f"{scope}.self_attention.norm", next(norms), value)
            if side == "decoder":
                yield from attention(f"{scope}.cross_attention", layer.multihead_attn, value)
                yield from both(f"{scope}.cross_attention.norm", next(norms), value)
            yield from both(f"{scope}.feed_forward.up", layer.linear1, value)
            yield from both(f"{scope}.feed_forward.down", layer.linear2, value)
            yield from both(f"{scope}.feed_forward.norm", next(norms), value)


def of_teacher(value):
    for name, parameter in teacher.named_parameters():
        yield f"encoder.{name}", value(parameter)


def rows(lengths):
    """Random words that end with [SEP], padded with 0."""
    ids = torch.randint(FIRST_WORD, WORDS, (len(lengths), max(lengths)))
    for row, length in zip(ids, lengths):
        row[length - 1], row[length:] = SEP, 0
    return ids, ids != 0


own, gradient = (lambda parameter: parameter), (lambda parameter: parameter.grad)
source_lengths, target_lengths = [7, 4, 6, 3], [5, 6, 2, 4]
source, source_real = rows(source_lengths)
target, target_real = rows(target_lengths)
put("source", source)
put("target", target)
for name, value in of_student(own):
    put(f"student.weight.{name}", value)
for name, value in of_teacher(own):
    put(f"teacher.weight.{name}", value)


def masked_logits(pair, places):
    """The teacher's logits at places of a pair's target, where it sees masks."""
    before = [CLS, *source[pair, :source_lengths[pair]].tolist()]
    seen = target[pair, :target_lengths[pair]].tolist()
    for place in places:
        seen[place] = MASK
    types = [0] * len(before) + [1] * len(seen)
    logits = teacher(
        torch.tensor([before + seen]), token_type_ids=torch.tensor([types])).logits[0]
    return logits[[len(before) + place for place in places]]


# Stage 1: the conditional masked language model, on the pairs that fit.
chosen = {1: [0, 3, 5], 2: [1], 3: [0, 2]}
loss = sum(
    nn.functional.cross_entropy(
        masked_logits(pair, places), target[pair, places], reduction="sum")
    for pair, places in chosen.items())
loss.backward()
marks = torch.zeros_like(target)
for pair, places in chosen.items():
    marks[pair, places] = 1
put("teacher.chosen", marks)
put("teacher.loss", loss)
for name, value in of_teacher(gradient):
    put(f"teacher.gradient.{name}", value)

# Stage 2: a label for every target token, and what is learnt from them.
soft = torch.zeros(*target.shape, WORDS)
with torch.no_grad():
    for pair, length in enumerate(target_lengths):
        if 1 + source_lengths[pair] + length > TEACHER_POSITIONS:
            soft[pair, range(length), target[pair, :length]] = 1.0
            continue
        passes = [[place] for place in range(length)]
        if length > PASSES:
            passes = [list(range(first, length, PASSES)) for first in range(PASSES)]
        for places in passes:
            best = masked_logits(pair, places).topk(TOP)
            probabilities = (best.values / TEMPERATURE).softmax(-1)
            for place, words, values in zip(places, best.indices, probabilities):
                soft[pair, place, words] = values
assert ((soft.sum(-1) - 1).abs() < 1e-12)[target_real].all()

half = WIDTH // 2
angles = torch.arange(source.shape[1])[:, None] * torch.exp(
    torch.arange(half) * -(math.log(10000) / (half - 1)))
embedded = source_words[source] * WIDTH**0.5 + torch.cat([angles.sin(), angles.cos()], 1)
memory = encoder(embedded, src_key_padding_mask=~source_real)
shifted = torch.cat([torch.full((len(target), 1), CLS), target[:, :-1]], 1) * target_real
length = shifted.shape[1]
logits = decoder(
    target_words[shifted] * WIDTH**0.5 + target_positions[:length], memory,
    tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
    tgt_key_padding_mask=~target_real, memory_key_padding_mask=~source_real) @ target_words.T
log_probs = logits.log_softmax(-1)[target_real]
hard = nn.functional.cross_entropy(
    logits[target_real], target[target_real], label_smoothing=SMOOTHING, reduction="sum")
soft_loss = -(soft[target_real] * log_probs).sum()
loss = (1 - WEIGHT) * hard + WEIGHT * soft_loss
loss.backward()
put("student.loss", loss)
put("student.soft_nll", soft_loss)
for name, value in of_student(gradient):
    put(f"student.gradient.{name}", value)

save_file(tensors, Path(__file__).with_name("golden.safetensors"))
print(sum(tensor.numel() for tensor in tensors.values()), "numbers,",
      sum("gradient" in name for name in tensors), "gradients")
