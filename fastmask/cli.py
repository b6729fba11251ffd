"""Command line: `python -m fastmask demo` trains a masked recurrent network on real speech and shows what comes out.

The demo's model is a Bidirectional GRU (or LSTM) over Ragged utterances and a softmax over the nine speakers.
Its hyper-parameters were chosen on the training set alone, by `python -m fastmask demo --folds 5` and variations of it;
CONTRIBUTING.md has the procedure and the table it gave.
"""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np

BATCH_SIZE = 27  # 270 utterances: ten equal batches an epoch
SPEAKERS = 9


def main(argv=None):
    """Run the command line `argv` (default: the process's own) and return the exit status."""
    options = parse(argv)
    try:
        cross_validate(options) if options.folds > 1 else run_demo(options)
    except BrokenPipeError:  # the reader of our output went away: `... | head`
        sys.stderr.close()
        return 1
    return 0


def parse(argv):
    """The options in `argv`; wrong ones end the process with a message, as argparse does."""
    parser = argparse.ArgumentParser(prog="python -m fastmask", description="Masked recurrent networks on the CPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="train and test on Japanese Vowels",
        description="Train a bidirectional masked network on Japanese Vowels and test it, beside the NumPy reference.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--cell", choices=("gru", "lstm"), default="gru", help="the recurrent layer")
    demo.add_argument("--units", type=_positive, default=100, help="units in each direction")
    demo.add_argument("--epochs", type=_positive, default=20, help="passes over the training set")
    demo.add_argument("--learning-rate", type=float, default=3e-3, help="of Adam")
    demo.add_argument("--dropout", type=float, default=0.0, help="between the recurrent layer and the softmax")
    demo.add_argument("--seed", type=int, default=0, help="of weights, shuffling and dropout: same seed, same bits")
    demo.add_argument("--out", type=Path, default=Path("fastmask_demo.png"), help="the picture (needs matplotlib)")
    folds_help = "if > 1: cross-validate on the training set instead; the test set is left alone"
    demo.add_argument("--folds", type=int, default=0, help=folds_help)
    return parser.parse_args(argv)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, received {text}")
    return number


# --- the demo ---------------------------------------------------------------------------------------------------------


def run_demo(options):
    """Load, train, compare with the reference, draw, test; print each step."""
    import fastmask as fm

    say(f"fastmask {fm.__version__}, {fm.get_num_threads()} threads")
    (x_train, y_train), (x_test, y_test) = fm.datasets.japanese_vowels()
    describe(x_train, x_test)
    x_train, x_test = standardise(x_train, x_test)

    fm.set_random_seed(options.seed)
    model = build_model(options)
    model.summary()
    started = time.perf_counter()
    prepare_kernels(options, x_train, y_train, x_test)
    seconds = time.perf_counter() - started
    say(f"kernels ready after {seconds:.1f} s (compiled at the first run, then read from the cache)")
    started = time.perf_counter()
    history = model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=1)
    seconds = time.perf_counter() - started
    steps = options.epochs * len(x_train.values)
    say(f"training: {options.epochs} epochs in {seconds:.2f} s, {steps / seconds:,.0f} valid steps/s")

    probabilities = compare_with_reference(model, options, x_test)
    predicted = probabilities.argmax(axis=-1)
    draw(options.out, history.history, x_test, y_test, predicted)
    say(f"test accuracy {np.mean(predicted == y_test):.4f}")


def say(text):
    """Print at once, also into a pipe."""
    print(text, flush=True)


def describe(x_train, x_test):
    """Say what the data is."""
    lengths = np.concatenate([x_train.lengths, x_test.lengths])
    padding = 1 - lengths.sum() / (len(lengths) * lengths.max())
    say("Japanese Vowels: nine speakers say /ae/; who is it? (Kudo, Toyama, Shimbo 1999, UCI, CC BY 4.0)")
    for name, x in (("training", x_train), ("test", x_test)):
        say(f"  {len(x)} {name} utterances, {len(x.values)} frames of {x.values.shape[-1]} LPC cepstrum coefficients")
    say(f"  {lengths.min()} to {lengths.max()} frames each; in a padded batch, {padding:.0%} would be padding")


def standardise(x_train, *others):
    """Zero mean and unit variance for each coefficient over the training frames; `others` with the same numbers."""
    mean, deviation = x_train.values.mean(axis=0), x_train.values.std(axis=0)
    return [x.with_values((x.values - mean) / deviation) for x in (x_train, *others)]


def build_model(options):
    """The demo's model, compiled, with fresh weights."""
    import fastmask as fm

    recurrent = {"gru": fm.layers.GRU, "lstm": fm.layers.LSTM}[options.cell]
    layers = [fm.Input((None, 12)), fm.layers.Bidirectional(recurrent(options.units))]
    if options.dropout:
        layers.append(fm.layers.Dropout(options.dropout))
    model = fm.Sequential([*layers, fm.layers.Dense(SPEAKERS, activation="softmax")])
    optimizer = fm.optimizers.Adam(learning_rate=options.learning_rate)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def prepare_kernels(options, x_train, y_train, x_test):
    """One batch through a model that is thrown away, so that compiling is not counted as training."""
    scratch = build_model(options)
    scratch.fit(x_train.take(np.arange(BATCH_SIZE)), y_train[:BATCH_SIZE], batch_size=BATCH_SIZE, epochs=1, verbose=0)
    scratch.predict(x_test)


def compare_with_reference(model, options, x_test):
    """Predict with the model and with the NumPy reference; say how far apart they are. Returns the model's answer."""
    padded, mask = x_test.to_padded()
    probabilities, fast = best_time(lambda: model.predict(x_test), repeat=3)
    expected, slow = best_time(lambda: reference_forward(model.get_weights(), options.cell, padded, mask), repeat=3)
    difference = np.abs(probabilities - expected).max()
    say(
        f"test set forward: fastmask {1e3 * fast:.1f} ms, NumPy reference {1e3 * slow:.1f} ms "
        f"({slow / fast:.1f} times as long), largest difference {difference:.1e}"
    )
    return probabilities


def best_time(function, repeat):
    """The result of `function()` and the shortest of `repeat` times it took."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return result, min(times)


def reference_forward(weights, cell, x, mask):
    """The same model in plain NumPy, for padded x (B,T,F) and its mask (B,T): the two directions, then the softmax."""
    layer = getattr(import_module(f"fastmask.reference.{cell}"), cell)
    forward = layer(x, *weights[0:3], mask=mask, return_sequences=False).outputs
    backward = layer(x, *weights[3:6], mask=mask, return_sequences=False, go_backwards=True).outputs
    logits = np.concatenate([forward, backward], axis=-1) @ weights[6] + weights[7]
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


# --- choosing hyper-parameters ----------------------------------------------------------------------------------------


def cross_validate(options):
    """K-fold cross-validation over the training utterances (each fold holds the same number of every speaker)."""
    import fastmask as fm

    (x, y), _ = fm.datasets.japanese_vowels()
    fold_of = stratified_folds(y, options.folds, options.seed)
    curves = []
    for fold in range(options.folds):
        inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        x_inside, x_outside = standardise(x.take(inside), x.take(outside))
        fm.set_random_seed(options.seed + fold)
        history = build_model(options).fit(
            x_inside,
            y[inside],
            batch_size=BATCH_SIZE,
            epochs=options.epochs,
            validation_data=(x_outside, y[outside]),
            verbose=0,
        )
        curves.append((history.history["val_accuracy"], history.history["val_loss"]))
        say(f"fold {fold + 1} of {options.folds}: accuracy {curves[-1][0][-1]:.4f}, loss {curves[-1][1][-1]:.4f}")
    say("epochs  accuracy  loss    (mean over the folds)")
    accuracy, loss = np.mean(curves, axis=0)
    for epoch in sorted({*range(10, options.epochs + 1, 10), options.epochs}):
        say(f"{epoch:6d}  {accuracy[epoch - 1]:.4f}    {loss[epoch - 1]:.4f}")


def stratified_folds(labels, folds, seed):
    """The fold of each label, 0 to folds - 1: every class is shuffled and dealt out evenly."""
    random = np.random.default_rng(seed)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        fold_of[members] = np.arange(len(members)) % folds
    return fold_of


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(path, curves, x_test, y_test, predicted):
    """Write the PNG: learning curve, a padded batch with its mask, confusion matrix. Without matplotlib only say so."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        say("no picture: matplotlib is not installed (python -m pip install matplotlib)")
        return
    figure = Figure(figsize=(16, 5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen, whatever backend the user has set
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.25, 1))
    draw_curve(left, curves)
    draw_batch(middle, x_test)
    draw_confusion(right, y_test, predicted)
    figure.savefig(path, dpi=100)
    say(f"picture written to {path}")


def draw_curve(axes, curves):
    """Loss and accuracy after each epoch."""
    epochs = np.arange(1, len(curves["loss"]) + 1)
    axes.plot(epochs, curves["loss"], color="tab:blue")
    axes.set(title="Learning curve (training set)", xlabel="epoch", yscale="log")
    axes.set_ylabel("cross-entropy", color="tab:blue")
    twin = axes.twinx()
    twin.plot(epochs, curves["accuracy"], color="tab:orange")
    twin.set_ylabel("accuracy", color="tab:orange")
    twin.set_ylim(0, 1.02)


def draw_batch(axes, x_test, rows=24):
    """First coefficient of some utterances as a padded batch; what the mask hides is hatched."""
    batch = x_test.take(np.linspace(0, len(x_test) - 1, rows).astype(np.int64))
    padded, mask = batch.to_padded()
    steps = mask.shape[1]
    image = axes.imshow(np.where(mask, padded[..., 0], np.nan), aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3)
    hidden = {"left": batch.lengths - 0.5, "height": 1, "color": "none", "edgecolor": "gray", "linewidth": 0}
    axes.barh(np.arange(rows), steps - batch.lengths, hatch="////", **hidden)
    axes.set(title="A padded batch, hatched where the mask is False", xlabel="frame", ylabel="utterance")
    axes.set(xlim=(-0.5, steps - 0.5), xticks=range(0, steps, 5))
    axes.figure.colorbar(image, ax=axes, label="first coefficient, standard deviations")


def draw_confusion(axes, labels, predicted):
    """How often each speaker was taken for which."""
    counts = np.zeros((SPEAKERS, SPEAKERS), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(
                column, row, count, ha="center", va="center", color="white" if count > counts.max() / 2 else "black"
            )
    axes.set(title=f"Test set: {np.trace(counts)} of {len(labels)} right", xlabel="predicted speaker", ylabel="speaker")
    axes.set_xticks(range(SPEAKERS))
    axes.set_yticks(range(SPEAKERS))
