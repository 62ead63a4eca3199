"""what a message of 1 to 5 examples leaks: exact raw, not safe in a secure sum, a guess under privacy (1 minute)"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.audit.attacks import layer_inversion
from seedbed.audit.leaks import EXACT_PSNR, layer_of, other_inputs
from seedbed.audit.subject import Subject, inputs_of, subject_of, with_rows
from seedbed.audit.views import release_of, secure_mean, update_in
from seedbed.privacy.differential import Independent, Noise, new_key, noise_for
from seedbed.reports.png import png, side_by_side_images, stack_images

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CLIENTS, EPSILON, OF, ROUNDS = 10, 8.0, 1000, 100  # cohorts of 10 by chance from 1,000 clients, for 100 rounds
CASES = [(examples, steps) for examples in (1, 5, 25) for steps in (1, 5)]
COLUMNS = {
    "raw": "raw message",
    "secure": "secure sum of 10",
    "private": "DP, all others known",
    "both": "secure sum + DP",
    "guess": "guess",
}


def subject(steps: int) -> Subject:
    """FedAvg of an MLP with 128 hidden units on the digits, each client's step over all its examples."""
    words = [
        "model.name=mlp",
        "model.hidden=128",
        "reader.episodic=false",
        "task.batch_size=none",
        f"task.steps={steps}",
    ]
    return subject_of(None, {"algorithm": "fedavg", "rounds": ROUNDS}, [*words, "local.lr=0.1"])


def leaked(examples: int, steps: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """For each view the ratio that each of ten clients' best input is found at; and the first client's pictures."""
    of = subject(steps)
    train, layer = of.experiment.train, layer_of(of)
    assert layer is not None
    rng = randomness.generator(0, "leakage", examples)
    rows = [np.sort(rng.permutation(train.rows_of(c))[:examples]) for c in range(CLIENTS)]
    source = of.sampled(with_rows(train, rows))
    messages = of.messages(source)
    z = noise_for(EPSILON, 1e-5, rate=CLIENTS / OF, times=ROUNDS)
    clip = float(np.median([float(tree.squared_norm(tree.index(messages, c)).sqrt()) for c in source.clients]))
    scores: dict[str, list[float]] = {name: [] for name in COLUMNS}
    shown: dict[str, Tensor] = {}
    for client in source.clients:
        mechanism = Independent(Noise(new_key()), z, CLIENTS, OF)
        true = of.scaled(inputs_of(tree.index(source.tasks([client], 0), 0)))
        views = {
            "raw": tree.index(messages, client),
            "secure": secure_mean(messages),
            "private": release_of(mechanism, clip, tree.index(messages, [client])),
            "both": release_of(mechanism, clip, messages),
        }
        pictures = {}
        for name, value in views.items():
            update = update_in(value, of.model.params)
            assert update is not None
            found, ratio = layer_inversion.best_match(of.scaled(layer_inversion.candidates(update, layer)), true)
            scores[name].append(min(ratio, EXACT_PSNR))
            pictures[name] = found
        scores["guess"].append(layer_inversion.mean_guess(true, other_inputs(of, source.population, client)))
        if not shown:
            pictures["guess"] = other_inputs(of, source.population, client).mean(0)
            shown = {"original": true[int(layer_inversion.psnr(pictures["raw"], true).argmax())], **pictures}
    return scores, shown


def picture(rows: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """A row for each case: the original, then what each view gives."""
    shape = (1, 8, 8)
    order = ["original", *COLUMNS]
    image: Any = stack_images(
        [side_by_side_images([row[name].reshape(shape).numpy() for name in order]) for row in rows.values()]
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png(image, zoom=8))


def main() -> int:
    torch.set_num_threads(1)
    good, kept, sums = True, {}, []
    print(f"| examples, local steps | {' | '.join(COLUMNS.values())} |\n|---|{'---|' * len(COLUMNS)}")
    for examples, steps in CASES:
        scores, shown = leaked(examples, steps)
        mean = {name: float(np.mean(values)) for name, values in scores.items()}
        print(f"| {examples}, {steps} | {' | '.join(f'{mean[name]:.1f}' for name in COLUMNS)} |")
        if examples <= 5:
            good &= mean["raw"] >= 100
        good &= max(mean["private"], mean["both"]) <= mean["guess"] + 1
        if steps == 1:
            kept[str(examples)] = shown
        if examples == 1:
            sums.append(sum(value > 30 for value in scores["secure"]))
    good &= min(sums) > 0
    if "--picture" in sys.argv:  # the page's; noise and keys are fresh in each run
        picture(kept, IMAGES / "leakage.png")
    print(
        f"1 to 5 examples: raw ≥ 100 dB; in a secure sum of {CLIENTS} clients with one example each {min(sums)} of "
        f"{CLIENTS} are recognised; with privacy of ε = {EPSILON:g} at most a guess + 1 dB: "
        f"{'holds' if good else 'FAILED'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
