"""Prints the table of plans for secure aggregation that docs/secure_aggregation.md shows; a test compares the two.

.venv/bin/python docs/generate_plans.py
"""

from seedbed.errors import InputError
from seedbed.privacy.secure import MaskedSums
from seedbed.privacy.secure.odds import cheapest, in_words, odds

TITLES = ("server", "n", "γ", "δ", "k", "t", "colluding", "lost", "exposed", "given up", "honest in a sum")
CASES = ((0.2, 0.3), (0.33, 0.3), (0.1, 0.1))
DEVIATING = ((0.2, 0.1), (0.2, 0.2), (0.33, 0.33), (0.1, 0.1))


def main() -> None:
    print("| " + " | ".join(TITLES) + " |")
    print("|" + "---|" * len(TITLES))
    for malicious, cases in ((False, CASES), (True, DEVIATING)):
        for clients in (10, 30, 100, 300):
            for colluding, lost in cases:
                form = MaskedSums(malicious_server=malicious, colluding=colluding, lost=lost)
                print("| " + " | ".join(row(form, clients)) + " |")


def row(form: MaskedSums, clients: int) -> tuple[str, ...]:
    assumed = form.assumed(clients)
    server = "deviates" if form.malicious_server else "follows"
    first = (server, str(clients), f"{form.colluding:g}", f"{form.lost:g}")
    try:
        k, t = cheapest(assumed)
    except InputError:
        return (*first, "–", "–", str(assumed.colluding), str(assumed.lost), "refused", "", "")
    exposed, given_up = odds(assumed, k, t)
    numbers = (k, t, assumed.colluding, assumed.lost, in_words(exposed), in_words(given_up), assumed.least_honest)
    return (*first, *(str(number) for number in numbers))


if __name__ == "__main__":
    main()
