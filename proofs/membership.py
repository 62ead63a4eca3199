"""who was in the training: found without a defence, under privacy no better than ε allows; 16 shadows (1 minute)"""

import sys

import torch
from rich.progress import Progress

from seedbed.audit.attacks.membership_inference import dp_ceiling
from seedbed.audit.members import AT, MembershipResult, attack_trainings, spent_by
from seedbed.audit.subject import Subject, subject_of

ROUNDS, EPSILON, SHADOWS = 40, 2.0, 16
WORDS = [  # 100 clients with six digits each, of which a random half takes part: few enough to be learned by heart
    *("reader.episodic=false", "reader.partition=iid", "reader.clients=300", "unseen=200", "hold_out=0.0"),
    *("model.name=mlp", "task.batch_size=none", "task.steps=10", "local.lr=0.3", "cohort=100", "privacy.clip=1.0"),
    f"audit.shadows={SHADOWS}",
]


def subject() -> Subject:
    asked = {"algorithm": "fedavg", "rounds": ROUNDS, "privacy": {"epsilon": EPSILON}}
    return subject_of(None, asked, WORDS)


def said(found: MembershipResult) -> str:
    return f"{found.rate.rate:.1%} of members ({found.rate.low:.1%} to {found.rate.high:.1%})"


def main() -> int:
    torch.set_num_threads(1)
    of = subject()
    assert of.own is not None
    with Progress() as bars:
        tick = bars.add_task("trainings", total=2 * SHADOWS)
        plain = attack_trainings(of, None, ROUNDS, lambda word: bars.advance(tick))
        private = attack_trainings(of, of.own, ROUNDS, lambda word: bars.advance(tick))
    spent = spent_by(of.own, ROUNDS)
    most = dp_ceiling(private.mistaken, spent, of.own.delta)
    good = private.rate.low <= most and private.rate.rate <= most and plain.rate.low > AT
    print(
        f"at a false-positive rate of {AT:.0%}, {plain.pairs} guesses: undefended {said(plain)} found; under ε = "
        f"{spent:.2f} "
        f"{said(private)}, allowed {dp_ceiling(AT, spent, of.own.delta):.1%} ({most:.1%} at the upper limit of the "
        f"false-"
        f"positive rate): {'holds' if good else 'FAILED'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
