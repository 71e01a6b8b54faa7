"""Prints what TensorBoard's own reader finds in a log folder.

    python read_tensorboard.py FOLDER

One JSON object on one line: {"tag": [[step, value], ...], ...}. Scalars are numbers, or "nan" and
"inf", for which JSON has no number; texts are strings, hyperparameters one object of names and
values. All points are kept, none sampled, in the order of reading, so that a point that is there
twice shows.
"""

import json
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

ALL = 0


def number(value):
    return value if math.isfinite(value) else str(value)


def texts(log, tag):
    for event in log.Tensors(tag):
        yield [event.step, tensor_util.make_ndarray(event.tensor_proto).item(0).decode("utf-8")]


def hparams(log):
    try:
        contents = log.PluginTagToContent(metadata.PLUGIN_NAME)
    except KeyError:
        return
    for tag, content in contents.items():
        start = metadata.parse_session_start_info_plugin_data(content)
        values = {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}
        yield tag, [[0, values]]


def read(folder):
    log = EventAccumulator(folder, size_guidance={"scalars": ALL, "tensors": ALL})
    log.Reload()
    points = {}
    for tag in log.Tags()["scalars"]:
        points[tag] = [[event.step, number(event.value)] for event in log.Scalars(tag)]
    for tag in log.Tags()["tensors"]:
        points[tag] = list(texts(log, tag))
    points.update(hparams(log))
    return points


if __name__ == "__main__":
    json.dump(read(sys.argv[1]), sys.stdout)
    print()
