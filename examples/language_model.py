"""Trains a small language model on the docstrings of Python's standard library and converts it without retraining.

Prints how many bits a character costs the network and the spiking one after 1, 2, 4 and 8 time-steps, and a text that
the spiking network writes. Nothing is downloaded.
"""

import argparse
import ast
import sysconfig
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gnsnn_jax as gs
from gnsnn_jax.models.language import LanguageModel, bits_per_token

CONTEXT, BATCH_SIZE = 64, 32
MEMBERS, STEPS = 16, (1, 2, 4, 8)
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 3e-3, 0.1, 0.05  # the last as a share of the steps
TEMPERATURE, WRITTEN = 0.7, 300  # characters
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
START = "Return "
NETWORK = LanguageModel(len(CHARACTERS), CONTEXT, width=96, depth=3, heads=4)


def library_text(modules):
    """The docstrings of so many modules of the standard library, and its licence where it lies beside them."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))[:modules]
    licences = [path.read_text(encoding="utf-8") for path in folder.glob("LICENSE*")]
    return "\n\n".join([*(text for file in files for text in docstrings(file)), *licences])


def docstrings(file):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    parts = [each for each in ast.walk(ast.parse(file.read_bytes())) if isinstance(each, documented)]
    return [text for text in map(ast.get_docstring, parts) if text]


def encode(text):
    """Tokens of the characters, without those beyond ASCII."""
    return np.array([CHARACTERS.index(each) for each in text if each in CHARACTERS], np.int32)


def decode(tokens):
    return "".join(CHARACTERS[token] for token in tokens)


def windows(tokens, random, count=BATCH_SIZE):
    """Random stretches of CONTEXT tokens, [count, CONTEXT]."""
    starts = random.integers(0, len(tokens) - CONTEXT, count)
    return jnp.asarray(tokens[starts[:, None] + np.arange(CONTEXT)])


def train(tokens, steps):
    """Weights after so many steps of AdamW."""
    random = np.random.default_rng(0)
    variables = jax.jit(NETWORK.init)(jax.random.key(0), windows(tokens, random, 1))
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, 1 + int(WARMUP * steps), 2 + steps)
    is_weight = partial(jax.tree.map, lambda leaf: leaf.ndim == 2)
    decay = optax.adamw(rate, weight_decay=WEIGHT_DECAY, mask=is_weight)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), decay)

    @jax.jit
    def step(variables, moments, batch):
        loss = lambda variables: bits_per_token(NETWORK.apply(variables, batch), batch)
        updates, moments = optimizer.update(jax.grad(loss)(variables), moments, variables)
        return optax.apply_updates(variables, updates), moments

    moments = optimizer.init(variables)
    for _ in range(steps):
        variables, moments = step(variables, moments, windows(tokens, random))
    return variables


def converted(variables, tokens):
    """The spiking network, a function of tokens: the mean of its outputs after 1..max(STEPS) steps."""
    random = np.random.default_rng(1)
    samples = [windows(tokens, random) for _ in range(8)]
    thresholds = gs.find_thresholds(NETWORK.apply, samples, MEMBERS, variables=variables)
    snn = gs.to_spiking(NETWORK.apply, gs.group_neuron(MEMBERS), steps=max(STEPS), thresholds=thresholds)
    time = jnp.arange(1.0, 1 + max(STEPS)).reshape(-1, 1, 1, 1)
    return jax.jit(lambda tokens: jnp.cumsum(snn(variables, tokens), 0) / time)


def bits(logits_of, batches):
    """Bits for each character, the mean over the batches, of logits [..., batch, context, characters]."""
    cost = jax.jit(lambda logits, tokens: bits_per_token(logits, jnp.broadcast_to(tokens, logits.shape[:-1])))
    over_time = lambda outputs, tokens: [cost(logits, tokens) for logits in outputs.reshape(-1, *outputs.shape[-3:])]
    return np.mean([over_time(logits_of(tokens), tokens) for tokens in batches], 0)


def write(logits_of, count, seed=0):
    """A text that goes on from START, each character drawn from what the logits say of it."""
    key, tokens = jax.random.key(seed), list(encode(START))
    for index in range(count):
        window = tokens[1 - CONTEXT :]  # the last place of a context has learned nothing, since no character follows
        padded = jnp.asarray([window + [0] * (CONTEXT - len(window))], jnp.int32)  # of which the rest is not seen
        logits = logits_of(padded)[0, len(window) - 1]
        tokens.append(int(jax.random.categorical(jax.random.fold_in(key, index), logits / TEMPERATURE)))
    return decode(tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps (2000)")
    parser.add_argument("--modules", type=int, default=150, help="modules whose docstrings are read (150)")
    parser.add_argument("--characters", type=int, default=WRITTEN, help=f"characters to write ({WRITTEN})")
    command = parser.parse_args()

    tokens = encode(library_text(command.modules))
    trained, held_out = np.split(tokens, [len(tokens) * 9 // 10])
    print(f"{len(tokens):,} characters, of which {len(held_out):,} are held out")
    variables = train(trained, command.steps)
    spiking = converted(variables, trained)

    random = np.random.default_rng(2)
    batches = [windows(held_out, random) for _ in range(8)]
    network = jax.jit(partial(NETWORK.apply, variables))
    print("bits per character".ljust(20), *(f"T = {t}".rjust(7) for t in STEPS))
    print("network".ljust(20), f"{bits(network, batches)[0]:7.3f}")
    found = bits(spiking, batches)
    print(f"spiking, GN, m = {MEMBERS}".ljust(20), *(f"{found[t - 1]:7.3f}" for t in STEPS))
    print(f"\nwritten by the spiking network at T = {STEPS[-1]}:\n")
    print(write(lambda batch: spiking(batch)[-1], command.characters))


if __name__ == "__main__":
    main()
