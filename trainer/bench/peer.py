#!/usr/bin/env python3
"""AB-Net in plain PyTorch: what `make bench` compares this project's speed with.

usage: peer.py train|decode --model FOLDER --batches FILE [--dtype f32|bf16] [--threads N]
                            [--repeats N] [--batch-size N]
       peer.py parity FOLDER

Hugging Face BERT layers with the adapters written as a good engineer would at first: logits over
the whole vocabulary at all positions, no cache of keys and values, no fused kernels of our own.
Arguments, batch files and the line of JSON are those of `tandem-worker bench`; `parity` shows
that this is the same model.

Shapes: B sentences, S source tokens, T target tokens, D width, V vocabulary.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import BertForMaskedLM, logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def visible(keys):
    """The additive attention mask `[B, 1, 1, S]` of keys `[B, S]` that are real."""
    return torch.zeros(keys.shape).masked_fill(~keys, -10000.0)[:, None, None, :]


class EncoderAdapter(nn.Module):
    """`h + W2 relu(W1 LN(h))`."""

    def __init__(self, width, dim, eps):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.down = nn.Linear(width, dim, bias=False)
        self.up = nn.Linear(dim, width, bias=False)

    def forward(self, hidden):
        return hidden + self.up(F.relu(self.down(self.norm(hidden))))


class CrossAttention(nn.Module):
    """`LN(x + dropout(MHA(x, memory)))`."""

    def __init__(self, width, memory_width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, 1e-5)

    def forward(self, hidden, memory, mask):
        def split(x):  # [B, T, D] -> [B, heads, T, D / heads]
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query = split(self.query(hidden))
        key, value = split(self.key(memory)), split(self.value(memory))
        found = F.scaled_dot_product_attention(query, key, value, mask.to(query.dtype))
        found = self.output(found.transpose(1, 2).flatten(2))
        return self.norm(hidden + F.dropout(found, self.dropout, self.training))


class FeedForward(nn.Module):
    """`LN(x + dropout(W2 relu(W1 x)))`."""

    def __init__(self, width, dim, dropout):
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, dim)
        self.down = nn.Linear(dim, width)
        self.norm = nn.LayerNorm(width, 1e-5)

    def forward(self, hidden):
        found = self.down(F.relu(self.up(hidden)))
        return self.norm(hidden + F.dropout(found, self.dropout, self.training))


class AbNet(nn.Module):
    """Two frozen BERTs and the adapters between them, as reference form of the model folder."""

    def __init__(self, folder, case):
        super().__init__()
        self.source = BertForMaskedLM.from_pretrained(folder / "source_bert", dtype=torch.float32)
        self.target = BertForMaskedLM.from_pretrained(folder / "target_bert", dtype=torch.float32)
        for parameter in self.parameters():
            parameter.requires_grad = False
        source, target, form = self.source.config, self.target.config, case["model"]
        self.pad = case["special_ids"]["pad"]
        self.mask = case["special_ids"]["mask"]

        lengths, dropout = form["max_target_lengths"], target.hidden_dropout_prob
        self.length_embedding = nn.Embedding(lengths, source.hidden_size)
        first = form["encoder_adapter_first_layer"]
        dim, heads = form["encoder_adapter_dim"], form["decoder_cross_attention_heads"]
        self.encoder_adapters = nn.ModuleDict()
        for i in range(first, source.num_hidden_layers):
            adapter = EncoderAdapter(source.hidden_size, dim, source.layer_norm_eps)
            self.encoder_adapters[str(i)] = adapter
        self.cross_attentions, self.feed_forwards = nn.ModuleDict(), nn.ModuleDict()
        widths = target.hidden_size, source.hidden_size
        for i in range(target.num_hidden_layers):
            self.cross_attentions[str(i)] = CrossAttention(*widths, heads, dropout)
            if form["decoder_feed_forward_dim"]:
                block = FeedForward(widths[0], form["decoder_feed_forward_dim"], dropout)
                self.feed_forwards[str(i)] = block
        self.load(load_file(folder / "adapters.safetensors"))

    def trained(self):
        """The trained weights by their names in adapters.safetensors."""
        found = {"encoder.length_embedding.weight": self.length_embedding.weight}
        for side, part, blocks in (
            ("encoder", "adapter", self.encoder_adapters),
            ("decoder", "cross_attention", self.cross_attentions),
            ("decoder", "feed_forward", self.feed_forwards),
        ):
            for i, block in blocks.items():
                for name, weight in block.named_parameters():
                    found[f"{side}.layer.{i}.{part}.{name}"] = weight
        return found

    def load(self, stored):
        trained = self.trained()
        if trained.keys() != stored.keys():
            raise ValueError(f"adapters.safetensors: {sorted(trained.keys() ^ stored.keys())}")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(stored[name])

    def encode(self, source_ids):
        """The memory `[B, S, D]` and the log-probabilities of target lengths."""
        bert = self.source.bert
        hidden = bert.embeddings(source_ids)
        length = self.length_embedding.weight[0].to(hidden.dtype).expand(len(hidden), 1, -1)
        hidden = torch.cat([length, hidden], 1)
        mask = visible(F.pad(source_ids != self.pad, (1, 0), value=True)).to(hidden.dtype)
        for i, layer in enumerate(bert.encoder.layer):
            hidden = layer(hidden, mask)
            if str(i) in self.encoder_adapters:
                hidden = self.encoder_adapters[str(i)](hidden)
        logits = F.linear(hidden[:, 0], self.length_embedding.weight.to(hidden.dtype)).float()
        logits = torch.cat([torch.full_like(logits[:, :1], -torch.inf), logits[:, 1:]], 1)
        return hidden[:, 1:], logits.log_softmax(-1)

    def decode(self, target_ids, memory, source_mask):
        """The logits `[B, T, V]`."""
        bert = self.target.bert
        hidden = bert.embeddings(target_ids)
        mask = visible(target_ids != self.pad).to(hidden.dtype)
        for i, layer in enumerate(bert.encoder.layer):
            hidden = layer(hidden, mask)
            hidden = self.cross_attentions[str(i)](hidden, memory, source_mask)
            if str(i) in self.feed_forwards:
                hidden = self.feed_forwards[str(i)](hidden)
        return self.target.cls(hidden)

    def forward(self, source_ids, decoder_input_ids):
        memory, lengths = self.encode(source_ids)
        return self.decode(decoder_input_ids, memory, visible(source_ids != self.pad)), lengths

    def losses(self, batch, settings):
        """The word loss with smoothing, and the length loss: both sums."""
        logits, lengths = self(batch["source"], batch["input"])
        chosen = batch["chosen"]
        word = F.cross_entropy(
            logits[chosen].float(),
            batch["target"][chosen],
            label_smoothing=settings["label_smoothing"],
            reduction="sum",
        )
        length = F.nll_loss(lengths, (batch["input"] != self.pad).sum(1), reduction="sum")
        return word, length

    @torch.inference_mode()
    def mask_predict(self, source_ids, candidates, settings):
        """The best ids of each sentence. `candidates [B, C]`: lengths, or None to predict them."""
        memory, length_log_probs = self.encode(source_ids)
        if candidates is None:
            candidates = length_log_probs.topk(settings["length_candidates"], 1).indices
        candidates = candidates.clamp_min(2)
        lengths = candidates.flatten()  # [B C]
        memory = memory.repeat_interleave(candidates.shape[1], 0)
        source_mask = visible(source_ids != self.pad)
        source_mask = source_mask.repeat_interleave(candidates.shape[1], 0)

        real = torch.arange(int(lengths.max())) < lengths[:, None]  # [B C, T]
        masked, tokens = real, torch.full(real.shape, self.pad)
        scores = torch.ones(real.shape)
        iterations = settings["iterations"]
        for iteration in range(iterations + 1):
            if iteration > 0:
                count = (lengths * (iterations - iteration) // iterations).clamp_min(1)
                order = scores.masked_fill(~real, torch.inf).argsort(1).argsort(1)
                masked = order < count[:, None]
            logits = self.decode(tokens.masked_fill(masked, self.mask), memory, source_mask)
            best_scores, best_tokens = logits.float().softmax(-1).max(-1)
            tokens = torch.where(masked, best_tokens, tokens)
            scores = torch.where(masked, best_scores, scores)

        total = scores.log().masked_fill(~real, 0).sum(1)
        total = total / ((5 + lengths) / 6) ** settings["length_penalty"]
        best = total.view(candidates.shape).argmax(1)
        best = best + torch.arange(len(best)) * candidates.shape[1]
        return [tokens[i, : lengths[i]].tolist() for i in best.tolist()]


def padded(rows, pad):
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def lines(path):
    """The fields of each line of a batch file; integers but for a mask of 0 and 1."""
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                yield line.rstrip("\n").split("\t")


def ids(field):
    return [int(word) for word in field.split()]


def train_batches(path, pad):
    batches = {}
    for number, *fields in lines(path):
        batches.setdefault(int(number), []).append(fields)
    for rows in batches.values():
        source, target, given, chosen = zip(*rows)
        chosen = [[int(digit) for digit in word] for word in chosen]
        yield {
            "source": padded([ids(field) for field in source], pad),
            "target": padded([ids(field) for field in target], pad),
            "input": padded([ids(field) for field in given], pad),
            "chosen": padded(chosen, 0).bool(),
        }


def decode_batches(path, pad, size):
    """Batches of sentences of like length, as the released program makes them."""
    rows = [(i, ids(source), ids(given)) for i, (source, given) in enumerate(lines(path))]
    rows.sort(key=lambda row: (len(row[1]), max(row[2])))
    for start in range(0, len(rows), size):
        numbers, sources, candidates = zip(*rows[start : start + size])
        yield numbers, padded(sources, pad), torch.tensor(candidates)


def autocast(args):
    if args.dtype == "bf16":
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def train(model, args, case):
    """A step for each batch: forward, backward, Adam; and each batch's loss without dropout."""
    settings = case["loss"]
    batches = list(train_batches(args.batches, model.pad))
    if args.dtype == "bf16":
        model.source.bfloat16()
        model.target.bfloat16()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=args.learning_rate, betas=(0.9, 0.98), eps=1e-8)

    def loss_of(batch):
        tokens = (batch["target"] != model.pad).sum()
        with autocast(args):
            word, length = model.losses(batch, settings)
        return (word + settings["length_loss_weight"] * length) / tokens

    model.eval()
    with torch.no_grad():
        losses = [float(loss_of(batch)) for batch in batches]
    model.train()

    def step(batch):
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()

    step(batches[0])  # Adam's state and the allocator's pools are made once
    seconds, user = timed(lambda: [step(batch) for batch in batches], args.repeats)
    tokens = sum(int((batch["target"] != model.pad).sum()) for batch in batches)
    return {
        "batches": len(batches),
        "target_tokens": tokens,
        "target_tokens_per_second": tokens / statistics.median(seconds),
        "seconds": seconds,
        "user_cpu_seconds": user,
        "losses": losses,
    }


def decode(model, args, case):
    batches = list(decode_batches(args.batches, model.pad, args.batch_size))
    model.eval()
    if args.dtype == "bf16":
        model.bfloat16()
    found = {}

    def run():
        for numbers, source, candidates in batches:
            found.update(zip(numbers, model.mask_predict(source, candidates, case["decode"])))

    model.mask_predict(*batches[0][1:], case["decode"])
    seconds, user = timed(run, args.repeats)
    return {
        "sentences": len(found),
        "sentences_per_second": len(found) / statistics.median(seconds),
        "seconds": seconds,
        "user_cpu_seconds": user,
        "hypotheses": [found[number] for number in sorted(found)],
    }


def timed(work, repeats):
    """The seconds of each repeat, and the user CPU seconds of all."""
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def parity(model, folder, case):
    """Compares everything that the folder holds; the exit code is 1 if anything differs."""
    tensors, failed = load_file(folder / "case.safetensors"), False

    def report(name, found, expected, absolute=0.0):
        nonlocal failed
        error = float((found.detach() - expected).nan_to_num(0, 0, 0).abs().max())
        limit = 1e-4 * float(expected.nan_to_num(0, 0, 0).abs().max()) + absolute
        failed |= not error <= limit
        print(f"{'ok  ' if error <= limit else 'FAIL'} {name}: largest error {error:.2e}")

    model.eval()
    batch = {
        "source": tensors["input.source_ids"],
        "target": tensors["input.target_ids"],
        "input": tensors["input.decoder_input_ids"],
        "chosen": tensors["input.labels"] != model.pad,
    }
    memory, lengths = model.encode(batch["source"])
    logits, _ = model(batch["source"], batch["input"])
    real = (batch["source"] != model.pad)[:, :, None]
    report("encoder_output", memory * real, tensors["expected.encoder_output"] * real)
    report("length_log_probs", lengths, tensors["expected.length_log_probs"])
    real = (batch["input"] != model.pad)[:, :, None]
    report("logits", logits * real, tensors["expected.logits"] * real)
    word, length = model.losses(batch, case["loss"])
    total = word + case["loss"]["length_loss_weight"] * length
    report("loss", total.detach(), torch.tensor(case["loss"]["total"]))
    total.backward()
    for name, weight in model.trained().items():
        report(f"gradient.{name}", weight.grad, tensors[f"gradient.{name}"], 1e-5)

    source, expected = tensors["decode.source_ids"], case["decode"]["expected_ids"]
    with torch.no_grad():
        _, lengths = model.encode(source)
    report("decode.length_log_probs", lengths, tensors["decode.expected_length_log_probs"])
    batched = model.mask_predict(source, None, case["decode"])
    single = [model.mask_predict(row[None, row != model.pad], None, case["decode"])[0] for row in source]
    for name, found in (("batched", batched), ("one by one", single)):
        equal = sum(a == b for a, b in zip(found, expected))
        failed |= equal != len(expected)
        verdict = "ok  " if equal == len(expected) else "FAIL"
        print(f"{verdict} decoded {name}: {equal} of {len(expected)} equal")
    return int(failed)


def arguments():
    parser = argparse.ArgumentParser(description="AB-Net in plain PyTorch, to compare speeds with.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("parity").add_argument("model", type=Path)
    for verb in ("train", "decode"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--model", type=Path, required=True)
        sub.add_argument("--batches", type=Path, required=True)
        sub.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
        sub.add_argument("--threads", type=int, default=2)
        sub.add_argument("--repeats", type=int, default=2)
        sub.add_argument("--batch-size", type=int, default=32, help="sentences, in decoding")
        sub.add_argument("--learning-rate", type=float, default=5e-4)
        sub.add_argument("--matmul-precision", default="medium", help="torch's word for f32 products")
    return parser.parse_args()


def main():
    args = arguments()
    torch.manual_seed(1)
    case = json.loads((args.model / "case.json").read_text())
    model = AbNet(args.model, case)
    if args.verb == "parity":
        return parity(model, args.model, case)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(args.matmul_precision)
    measured = {"train": train, "decode": decode}[args.verb](model, args, case)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    head = {"verb": args.verb, "dtype": args.dtype, "threads": args.threads}
    print(json.dumps({**head, **measured, "peak_resident_bytes": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
