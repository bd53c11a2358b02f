"""Twenty steps of training and two evaluations, for test_devices: prints what came out as JSON.

In double precision, as the order in which devices add up numbers changes their last bit, and in single precision
that bit tips a quantised activation over now and then.
"""

import json
import sys
from dataclasses import replace
from functools import partial
from itertools import islice

from gnsnn_jax.analysis.evaluation import evaluate_over_time
from gnsnn_jax.conversion.to_spiking import to_spiking
from gnsnn_jax.data.sets import load_dataset, normalise
from gnsnn_jax.method.neurons import group_neuron
from gnsnn_jax.models.resnet import ResNet
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.config import Config, Data, Optimizer
from gnsnn_jax.training import loop


def main(coordinator=None, process_id=None):
    devices.start_processes(coordinator, coordinator and 2, process_id and int(process_id))
    config = Config(data=Data(crop_padding=1, flip=True), optimizer=Optimizer(micro_batches=2))
    dataset = load_dataset(config.data, 0)
    network = ResNet(num_classes=10, levels=4, threshold=4.0, blocks=(1,), widths=(8,), dtype="float64")
    plan = replace(loop.make_plan(config, dataset), network=network)
    losses = []
    for state in islice(loop.train(plan, dataset, loop.initial_state(plan)), 20):
        losses.append(state.metrics.mean()[0])
    validation = loop.loss_and_accuracy(network, state.variables, dataset.validation, dataset.statistics, batch_size=50)
    spiking = to_spiking(network.apply, group_neuron(4), steps=2)
    prepare = partial(normalise, to=dataset.statistics)
    found = evaluate_over_time(spiking, state.variables, dataset.test, prepare, batch_size=100)
    if devices.is_first():
        results = {
            "losses": losses,
            "validation": validation,
            "labels": found.labels.tolist(),
            "predictions": found.predictions.tolist(),
            "spikes": found.spikes.tolist(),
        }
        print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
