"""Prints what Weights & Biases, offline, and MLflow have kept in the working directory.

One JSON object on one line: {"wandb": {"tag": [[step, value], ...]}, "mlflow": {...}}.
"""

import json
from collections import defaultdict
from pathlib import Path

import mlflow
from wandb.proto import wandb_internal_pb2

# A file of wandb's is a header and a log in LevelDB's format: blocks of chunks with checksum, length and type.
HEADER, BLOCK, CHUNK = 7, 32768, 7
FULL, LAST = 1, 4


def records(data):
    at, whole = HEADER, b""
    while at + CHUNK <= len(data):
        if (left := BLOCK - at % BLOCK) < CHUNK:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + CHUNK : at + CHUNK + length]
        at += CHUNK + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def of_wandb():
    points = defaultdict(list)
    for path in Path("wandb").glob("offline-run-*/*.wandb"):
        for record in records(path.read_bytes()):
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            step = items.get("_step", record.history.step.num)
            for tag, value in items.items():
                if not tag.startswith("_"):
                    points[tag].append([step, value])
    return points


def of_mlflow():
    client = mlflow.MlflowClient()
    [experiment] = client.search_experiments(filter_string="name = 'tandem'")
    [run] = client.search_runs([experiment.experiment_id])
    return {
        tag: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }


if __name__ == "__main__":
    print(json.dumps({"wandb": of_wandb(), "mlflow": of_mlflow()}))
