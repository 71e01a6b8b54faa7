#!/usr/bin/env python3
"""AB-Net in plain PyTorch: what `make bench` and `gpu.py` compare this project's speed with.

usage: peer.py train|decode --model FOLDER --batches FILE [--device cpu|cuda] [--dtype f32|bf16]
                            [--compile [layers|whole]] [--threads N] [--repeats N] [--batch-size N]
       peer.py many --model FOLDER [--device cpu|cuda] [--compile [layers|whole]] [--threads N]
       peer.py parity FOLDER

Hugging Face BERT layers with the adapters written as a good engineer would at first: logits over
the whole vocabulary at all positions, no cache of keys and values, no fused kernels of our own.
Arguments, batch files and the line of JSON are those of `tandem-worker bench`; `parity` shows
that this is the same model.

`many` saves starting Python and reading the model for each measurement: it reads a job from each
line of its input, such as {"verb": "train", "batches": FILE, "dtype": "bf16"}, and answers with a
line of JSON, which is {"error": ...} if the job failed. The verb "peak" times a matrix product.

On a GPU batches are on the device before the clock starts and no step waits for the device. Each
batch has been run once by then, so that nothing is compiled or allocated while the clock runs.

Shapes: B sentences, S source tokens, T target tokens, D width, V vocabulary.
"""

import argparse
import copy
import gc
import json
import resource
import statistics
import sys
import time
import traceback
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
    mask = torch.zeros(keys.shape, device=keys.device)
    return mask.masked_fill(~keys, -10000.0)[:, None, None, :]


def frozen(tensor):
    """Where frozen layers run: their weights are already in the precision to compute in.

    On CUDA autocast would turn layer norms into f32, and with them all that lies between layers.
    """
    return torch.autocast(tensor.device.type, enabled=False)


class Norm(nn.LayerNorm):
    """A trained layer norm that keeps the precision of its input; see `frozen`."""

    def forward(self, hidden):
        if hidden.device.type == "cpu":  # where weights may be f32 and inputs bf16
            return super().forward(hidden)
        weight, bias = self.weight.to(hidden.dtype), self.bias.to(hidden.dtype)
        with frozen(hidden):
            return F.layer_norm(hidden, self.normalized_shape, weight, bias, self.eps)


class EncoderAdapter(nn.Module):
    """`h + W2 relu(W1 LN(h))`."""

    def __init__(self, width, dim, eps):
        super().__init__()
        self.norm = Norm(width, eps)
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
        self.norm = Norm(width, 1e-5)

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
        self.norm = Norm(width, 1e-5)

    def forward(self, hidden):
        found = self.down(F.relu(self.up(hidden)))
        return self.norm(hidden + F.dropout(found, self.dropout, self.training))


class EncoderLayer(nn.Module):
    """A frozen BERT layer and its adapter, if it has one."""

    def __init__(self, bert, adapter):
        super().__init__()
        self.bert, self.adapter = bert, adapter

    def forward(self, hidden, mask):
        with frozen(hidden):
            hidden = self.bert(hidden, mask)
        return hidden if self.adapter is None else self.adapter(hidden)


class DecoderLayer(nn.Module):
    """A frozen BERT layer, its cross-attention and its feed-forward block, if it has one."""

    def __init__(self, bert, cross_attention, feed_forward):
        super().__init__()
        self.bert, self.cross_attention, self.feed_forward = bert, cross_attention, feed_forward

    def forward(self, hidden, mask, memory, source_mask):
        with frozen(hidden):
            hidden = self.bert(hidden, mask)
        hidden = self.cross_attention(hidden, memory, source_mask)
        return hidden if self.feed_forward is None else self.feed_forward(hidden)


class AbNet(nn.Module):
    """Two frozen BERTs and the adapters between them, as reference form of the model folder."""

    def __init__(self, folder, case):
        super().__init__()
        how = {"dtype": torch.float32, "attn_implementation": "sdpa"}
        self.source = BertForMaskedLM.from_pretrained(folder / "source_bert", **how)
        self.target = BertForMaskedLM.from_pretrained(folder / "target_bert", **how)
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
        self.encoder_layers, self.decoder_layers = nn.ModuleList(), nn.ModuleList()
        for i, bert in enumerate(self.source.bert.encoder.layer):
            adapter = self.encoder_adapters[str(i)] if i >= first else None
            self.encoder_layers.append(EncoderLayer(bert, adapter))
        for i, bert in enumerate(self.target.bert.encoder.layer):
            block = self.feed_forwards[str(i)] if self.feed_forwards else None
            self.decoder_layers.append(DecoderLayer(bert, self.cross_attentions[str(i)], block))
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
        with frozen(source_ids):
            hidden = self.source.bert.embeddings(source_ids)
        length = self.length_embedding.weight[0].to(hidden.dtype).expand(len(hidden), 1, -1)
        hidden = torch.cat([length, hidden], 1)
        mask = visible(F.pad(source_ids != self.pad, (1, 0), value=True)).to(hidden.dtype)
        for layer in self.encoder_layers:
            hidden = layer(hidden, mask)
        logits = F.linear(hidden[:, 0], self.length_embedding.weight.to(hidden.dtype)).float()
        logits = torch.cat([torch.full_like(logits[:, :1], -torch.inf), logits[:, 1:]], 1)
        return hidden[:, 1:], logits.log_softmax(-1)

    def decode(self, target_ids, memory, source_mask):
        """The logits `[B, T, V]`."""
        with frozen(target_ids):
            hidden = self.target.bert.embeddings(target_ids)
        mask = visible(target_ids != self.pad).to(hidden.dtype)
        for layer in self.decoder_layers:
            hidden = layer(hidden, mask, memory, source_mask)
        with frozen(hidden):
            return self.target.cls(hidden)

    def forward(self, source_ids, decoder_input_ids):
        memory, lengths = self.encode(source_ids)
        return self.decode(decoder_input_ids, memory, visible(source_ids != self.pad)), lengths

    def losses(self, batch, settings):
        """The word loss with smoothing, and the length loss: both sums."""
        logits, lengths = self(batch["source"], batch["input"])
        word = self.word_loss(logits, batch["chosen"], batch["labels"], settings["label_smoothing"])
        length = F.nll_loss(lengths, (batch["input"] != self.pad).sum(1), reduction="sum")
        return word, length

    @staticmethod
    def word_loss(logits, chosen, labels, smoothing):
        """The loss of labels `[N]` at the places `chosen [N]` of all `[B T]`."""
        logits = logits.flatten(0, 1)[chosen].float()
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")

    @staticmethod
    def best_words(logits):
        return logits.float().softmax(-1).max(-1)

    def refine(self, tokens, scores, masked, memory, source_mask):
        """Predicts the masked tokens and their probabilities again."""
        logits = self.decode(tokens.masked_fill(masked, self.mask), memory, source_mask)
        best_scores, best_tokens = self.best_words(logits)
        return torch.where(masked, best_tokens, tokens), torch.where(masked, best_scores, scores)

    @torch.inference_mode()
    def mask_predict(self, source_ids, candidates, settings, longest=None):
        """The best ids of each sentence. `candidates [B, C]`: lengths, or None to predict them.

        `longest`: the largest of them, if known, so that nothing waits for the device.
        """
        device = source_ids.device
        memory, length_log_probs = self.encode(source_ids)
        if candidates is None:
            candidates = length_log_probs.topk(settings["length_candidates"], 1).indices
        candidates = candidates.clamp_min(2)
        lengths = candidates.flatten()  # [B C]
        memory = memory.repeat_interleave(candidates.shape[1], 0)
        source_mask = visible(source_ids != self.pad)
        source_mask = source_mask.repeat_interleave(candidates.shape[1], 0)

        longest = longest or int(lengths.max())
        real = torch.arange(longest, device=device) < lengths[:, None]  # [B C, T]
        masked, tokens = real, torch.full(real.shape, self.pad, device=device)
        scores = torch.ones(real.shape, device=device)
        iterations = settings["iterations"]
        for iteration in range(iterations + 1):
            if iteration > 0:
                count = (lengths * (iterations - iteration) // iterations).clamp_min(1)
                order = scores.masked_fill(~real, torch.inf).argsort(1).argsort(1)
                masked = order < count[:, None]
            tokens, scores = self.refine(tokens, scores, masked, memory, source_mask)

        total = scores.log().masked_fill(~real, 0).sum(1)
        total = total / ((5 + lengths) / 6) ** settings["length_penalty"]
        best = total.view(candidates.shape).argmax(1)
        best = best + torch.arange(len(best), device=device) * candidates.shape[1]
        found = zip(tokens[best].tolist(), lengths[best].tolist())
        return [row[:length] for row, length in found]

    def compile_parts(self, scope):
        """Hands the layers or all of the model to torch.compile.

        All layers of a side share what is compiled for one of them. That takes a fraction of the
        time that the whole model takes, and most of what can be fused lies within a layer.
        """
        # The default of 8 is too few for layers with and without gradients, dropout and fixed sizes.
        torch._dynamo.config.recompile_limit = 64
        if scope == "whole":
            names = ("losses", "encode", "refine")
        else:
            names = ("word_loss", "best_words")
            for layer in (*self.encoder_layers, *self.decoder_layers):
                layer.forward = torch.compile(layer.forward)
        for name in names:
            setattr(self, name, torch.compile(getattr(self, name)))


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
        target = padded([ids(field) for field in target], pad)
        # As places and not as a mask: how many a mask chooses is not known before a GPU has run.
        chosen = padded(chosen, 0).flatten().nonzero().squeeze(1)
        yield {
            "source": padded([ids(field) for field in source], pad),
            "target": target,
            "input": padded([ids(field) for field in given], pad),
            "chosen": chosen,
            "labels": target.flatten()[chosen],
        }


def decode_batches(path, pad, size):
    """Batches of sentences of similar length, like the released program's."""
    rows = [(i, ids(source), ids(given)) for i, (source, given) in enumerate(lines(path))]
    rows.sort(key=lambda row: (len(row[1]), max(row[2])))
    for start in range(0, len(rows), size):
        numbers, sources, candidates = zip(*rows[start : start + size])
        yield numbers, padded(sources, pad), torch.tensor(candidates)


def autocast(args):
    if args.dtype == "bf16":
        return torch.autocast(args.device, torch.bfloat16)
    return nullcontext()


def train(model, args, case):
    """A step for each batch: forward, backward, Adam; and each batch's loss without dropout."""
    settings = case["loss"]
    batches = list(train_batches(args.batches, model.pad))
    target_tokens = sum(int((batch["target"] != model.pad).sum()) for batch in batches)
    batches = [{name: ids.to(args.device) for name, ids in batch.items()} for batch in batches]
    if args.dtype == "bf16":
        model.source.bfloat16()
        model.target.bfloat16()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adam = {"betas": (0.9, 0.98), "eps": 1e-8, "fused": True if args.device == "cuda" else None}
    optimizer = torch.optim.Adam(weights, lr=args.learning_rate, **adam)

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

    for batch in to_warm_up(batches, args):  # Adam's state and the allocator's pools are made once
        step(batch)
    seconds, user = timed(lambda: [step(batch) for batch in batches], args)
    return {
        "batches": len(batches),
        "target_tokens": target_tokens,
        "target_tokens_per_second": target_tokens / statistics.median(seconds),
        "seconds": seconds,
        "user_cpu_seconds": user,
        "losses": losses,
    }


def decode(model, args, case):
    batches = []
    for numbers, source, candidates in decode_batches(args.batches, model.pad, args.batch_size):
        longest = max(2, int(candidates.max()))
        inputs = source.to(args.device), candidates.to(args.device), case["decode"], longest
        batches.append((numbers, inputs))
    model.eval()
    if args.dtype == "bf16":
        model.bfloat16()
    found = {}

    def run(batches):
        for numbers, inputs in batches:
            found.update(zip(numbers, model.mask_predict(*inputs)))

    run(to_warm_up(batches, args))
    seconds, user = timed(lambda: run(batches), args)
    return {
        "sentences": len(found),
        "sentences_per_second": len(found) / statistics.median(seconds),
        "seconds": seconds,
        "user_cpu_seconds": user,
        "hypotheses": [found[number] for number in sorted(found)],
    }


def peak(_model, args, _case):
    """The best rate of a product of two square matrices, in TFLOP/s."""
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    a, b = (torch.randn(args.size, args.size, device=args.device, dtype=kind) for _ in range(2))
    for _ in range(args.products):
        a @ b
    seconds, _ = timed(lambda: [a @ b for _ in range(args.products)], args)
    return {"tflops": 2e-12 * args.size**3 * args.products / min(seconds), "seconds": seconds}


def to_warm_up(batches, args):
    """All batches where kernels are chosen or compiled for their shapes; otherwise one will do."""
    return batches if args.device == "cuda" or args.compile else batches[:1]


def timed(work, args):
    """The seconds of each repeat, and the user CPU seconds of all."""

    def now():
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(args.repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def measure(model, args, case):
    """Runs a job on a model that it may change."""
    torch.manual_seed(1)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model.to(args.device)
    if args.compile:
        model.compile_parts(args.compile)
    measured = {"train": train, "decode": decode, "peak": peak}[args.verb](model, args, case)
    head = {"verb": args.verb, "dtype": args.dtype, "threads": args.threads}
    measured["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.device == "cuda":
        measured["device"] = torch.cuda.get_device_name()
        measured["torch"] = torch.__version__
        measured["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    return {**head, **measured}


def many(model, args, case):
    """Measures each job of standard input on a copy of the model."""
    for line in sys.stdin:
        job = argparse.Namespace(**{**vars(args), **json.loads(line)})
        try:
            measured = measure(copy.deepcopy(model), job, case)
        except (OSError, RuntimeError, ValueError) as error:
            traceback.print_exc()
            measured = {"verb": job.verb, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(measured), flush=True)
        # The next job, here or of another program, finds the device's memory free.
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


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
    labels = tensors["input.labels"].flatten()
    chosen = (labels != model.pad).nonzero().squeeze(1)
    batch = {
        "source": tensors["input.source_ids"],
        "input": tensors["input.decoder_input_ids"],
        "chosen": chosen,
        "labels": labels[chosen],
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
    rows = [row[None, row != model.pad] for row in source]
    single = [model.mask_predict(row, None, case["decode"])[0] for row in rows]
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
    for verb in ("train", "decode", "many"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--model", type=Path, required=True)
        if verb != "many":
            sub.add_argument("--batches", type=Path, required=True)
        sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        sub.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
        sub.add_argument("--compile", choices=["layers", "whole"], nargs="?", const="layers")
        sub.add_argument("--threads", type=int, default=2)
        sub.add_argument("--repeats", type=int, default=2)
        sub.add_argument("--batch-size", type=int, default=32, help="sentences, in decoding")
        sub.add_argument("--learning-rate", type=float, default=5e-4)
        sub.add_argument(
            "--matmul-precision",
            choices=["highest", "high", "medium"],
            help="torch's precision of f32 products; by default medium on CPUs, highest (no TF32) on GPUs",
        )
    return parser.parse_args()


def main():
    args = arguments()
    case = json.loads((args.model / "case.json").read_text())
    torch.manual_seed(1)
    model = AbNet(args.model, case)
    if args.verb == "parity":
        return parity(model, args.model, case)
    torch.set_num_threads(args.threads)
    usual = "highest" if args.device == "cuda" else "medium"
    torch.set_float32_matmul_precision(args.matmul_precision or usual)
    if args.verb == "many":
        many(model, args, case)
    else:
        print(json.dumps(measure(model, args, case)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
