"""The workloads of the benchmarks: a model folder in the parity layout, and files of batches.

Everything is a function of SEED. Weights are random; lengths are spread like those of real
sentences. Models of all sizes have the same vocabulary and can run the same batches.
"""

import json
from dataclasses import dataclass

import numpy
from safetensors.numpy import save_file

SEED = 20
VOCABULARY, POSITIONS, LENGTHS = 30522, 512, 1024


@dataclass(frozen=True)
class Sizes:
    """Two BERTs of one shape, and the adapters."""

    layers: int
    width: int
    heads: int  # also of cross-attention
    inner: int
    adapter: int
    feed_forward: int  # of the decoder's adapters; 0 is none


MINI = Sizes(layers=4, width=256, heads=4, inner=1024, adapter=192, feed_forward=192)
# The paper's model for IWSLT14: 38,608,896 trained weights, no feed-forward block.
BASE = Sizes(layers=12, width=768, heads=12, inner=3072, adapter=512, feed_forward=0)

SPECIAL = {"pad": 0, "unk": 1, "sep": 3, "mask": 4}
FIRST_WORD = 5
LONGEST, CANDIDATES = 100, 4


def write_model(folder, sizes=MINI):
    random = numpy.random.Generator(numpy.random.PCG64(SEED))
    for side in ("source_bert", "target_bert"):
        write_bert(folder / side, random, sizes)
    save_file(adapters(random, sizes), folder / "adapters.safetensors")
    case = {
        "model": {
            "encoder_adapter_dim": sizes.adapter,
            "encoder_adapter_first_layer": 0,
            "decoder_cross_attention_heads": sizes.heads,
            "decoder_feed_forward_dim": sizes.feed_forward,
            "max_target_lengths": LENGTHS,
        },
        "loss": {"label_smoothing": 0.1, "length_loss_weight": 0.1},
        "decode": {
            "rule": "released",
            "iterations": 10,
            "decoder_passes": 11,
            "length_candidates": CANDIDATES,
            "length_penalty": 1.1,
        },
        "special_ids": SPECIAL,
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


def normal(random, *shape):
    return (random.standard_normal(shape) * 0.04).astype(numpy.float32)


def norm(tensors, name, width):
    tensors[f"{name}.weight"] = numpy.ones(width, numpy.float32)
    tensors[f"{name}.bias"] = numpy.zeros(width, numpy.float32)


def linear(tensors, random, name, out, into):
    tensors[f"{name}.weight"] = normal(random, out, into)
    tensors[f"{name}.bias"] = normal(random, out)


def write_bert(folder, random, sizes):
    width, inner = sizes.width, sizes.inner
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    embeddings = "bert.embeddings"
    tensors[f"{embeddings}.word_embeddings.weight"] = normal(random, VOCABULARY, width)
    tensors[f"{embeddings}.position_embeddings.weight"] = normal(random, POSITIONS, width)
    tensors[f"{embeddings}.token_type_embeddings.weight"] = normal(random, 2, width)
    norm(tensors, f"{embeddings}.LayerNorm", width)
    for i in range(sizes.layers):
        layer = f"bert.encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(tensors, random, f"{layer}.attention.{part}", width, width)
        norm(tensors, f"{layer}.attention.output.LayerNorm", width)
        linear(tensors, random, f"{layer}.intermediate.dense", inner, width)
        linear(tensors, random, f"{layer}.output.dense", width, inner)
        norm(tensors, f"{layer}.output.LayerNorm", width)
    linear(tensors, random, "bert.pooler.dense", width, width)
    linear(tensors, random, "cls.predictions.transform.dense", width, width)
    norm(tensors, "cls.predictions.transform.LayerNorm", width)
    tensors["cls.predictions.bias"] = normal(random, VOCABULARY)
    words = tensors[f"{embeddings}.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words.copy()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": SPECIAL["pad"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"t{i}" for i in range(FIRST_WORD, VOCABULARY)]
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in words))


def adapters(random, sizes):
    width = sizes.width
    tensors = {"encoder.length_embedding.weight": normal(random, LENGTHS, width)}
    for i in range(sizes.layers):
        adapter = f"encoder.layer.{i}.adapter"
        norm(tensors, f"{adapter}.norm", width)
        tensors[f"{adapter}.down.weight"] = normal(random, sizes.adapter, width)
        tensors[f"{adapter}.up.weight"] = normal(random, width, sizes.adapter)
        cross = f"decoder.layer.{i}.cross_attention"
        for part in ("query", "key", "value", "output"):
            linear(tensors, random, f"{cross}.{part}", width, width)
        norm(tensors, f"{cross}.norm", width)
        if sizes.feed_forward:
            feed_forward = f"decoder.layer.{i}.feed_forward"
            linear(tensors, random, f"{feed_forward}.up", sizes.feed_forward, width)
            linear(tensors, random, f"{feed_forward}.down", width, sizes.feed_forward)
            norm(tensors, f"{feed_forward}.norm", width)
    return tensors


def sentence(random, tokens):
    """`tokens` ids, of which the last is [SEP]."""
    words = random.integers(FIRST_WORD, VOCABULARY, tokens - 1)
    return [*words.tolist(), SPECIAL["sep"]]


def pair_lengths(random):
    """Lengths in tokens of a sentence and its translation."""
    source = random.lognormal(3.0, 0.6)
    target = source * random.lognormal(0.0, 0.15)
    return [int(min(max(round(length), 3), LONGEST)) for length in (source, target)]


def corrupted(random, target):
    """The decoder's input and its loss positions: 1 to all of the tokens, 80/10/10."""
    given, chosen = list(target), [0] * len(target)
    for i in random.permutation(len(target))[: random.integers(1, len(target) + 1)].tolist():
        chosen[i] = 1
        chance = random.random()
        if chance >= 0.2:
            given[i] = SPECIAL["mask"]
        elif chance >= 0.1:
            given[i] = int(random.integers(FIRST_WORD, VOCABULARY))
    return given, chosen


def joined(ids):
    return " ".join(map(str, ids))


def write_train(path, max_tokens, count):
    """Batches of sentences of similar length, with at most `max_tokens` padded tokens per side."""
    random = numpy.random.Generator(numpy.random.PCG64(SEED + 1))
    lengths = sorted((pair_lengths(random) for _ in range(4000)), key=max)
    batches, batch = [], []
    for pair in lengths:
        if max(pair) * (len(batch) + 1) > max_tokens:
            batches.append(batch)
            batch = []
        batch.append(pair)
    # Evenly over all lengths, each as often as there are such batches.
    picked = [batches[(2 * i + 1) * len(batches) // (2 * count)] for i in range(count)]
    with open(path, "w", encoding="ascii") as file:
        file.write("# batch, source ids, target ids, decoder input ids, loss positions\n")
        for number, pairs in enumerate(picked):
            for source, target in pairs:
                source, target = sentence(random, source), sentence(random, target)
                given, chosen = corrupted(random, target)
                fields = [number, joined(source), joined(target), joined(given)]
                fields.append("".join(map(str, chosen)))
                file.write("\t".join(map(str, fields)) + "\n")


def write_decode(path, count):
    random = numpy.random.Generator(numpy.random.PCG64(SEED + 2))
    with open(path, "w", encoding="ascii") as file:
        file.write("# source ids, candidate lengths\n")
        for _ in range(count):
            source, target = pair_lengths(random)
            candidates = [max(2, target + shift) for shift in (0, 1, -1, 2)]
            file.write(f"{joined(sentence(random, source))}\t{joined(candidates)}\n")
