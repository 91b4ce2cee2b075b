"""False-positive rates of the report's verdict "significant" if all checkpoints are equal.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --pages 500 --images 2 10 --runs 1 8

For each number of images, and of runs, so many pages are made by chance: IoUs of
objects that depend on their image, equal in distribution for all checkpoints. One run is compared
with its start, several with each other. Printed is the share
of pages that call any difference significant, for the test of today and for the one of before
(95 % percentile intervals of a bootstrap, each for itself), and the share of 95 % intervals that
hold the true difference. Exits with 1 where more than 6 % of pages are wrong.
"""

import argparse
import sys
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mobile_sam.metrics.intervals import LEVEL, Difference, holm, paired_difference

LIMIT = 0.06
_SUBSETS = 1_999  # fewer than the report draws, for speed; the test is exact with any number
_BEFORE = 400  # pages that the intervals of before are tried on
Sums = NDArray[np.float64]


def drawn_page(images: int, checkpoints: int, rng: np.random.Generator) -> tuple[Sums, Sums]:
    """Sums of IoU (checkpoints, images), and numbers of objects (images,), which vary a lot."""
    counts = np.ceil(rng.lognormal(1.5, 1.0, images))
    difficulty = rng.beta(6, 2, images)
    skill = rng.beta(40 * difficulty, 40 * (1 - difficulty), (checkpoints, images))
    noise = rng.normal(0, 0.1, (checkpoints, images)) / np.sqrt(counts)
    return np.clip(skill + noise, 0, 1) * counts, counts


def compare(sums: Sums, counts: Sums) -> list[Difference]:
    """All pairs, as the report compares the highest of several runs with the others."""
    pairs = combinations(range(len(sums)), 2)
    return [paired_difference(sums[a], sums[b], counts, subsets=_SUBSETS) for a, b in pairs]


def says_beyond_chance(found: list[Difference]) -> bool:
    if max(d.smallest_p for d in found) * len(found) > LEVEL:
        return False  # too few images
    return min(holm([d.p_value for d in found])) <= LEVEL


def said_before(sums: Sums, counts: Sums, rng: np.random.Generator) -> bool:
    """Percentile intervals of 2000 resamples of images: the highest against each other one."""
    chosen = rng.integers(0, len(counts), (2000, len(counts)))
    means = sums[:, chosen].sum(2) / counts[chosen].sum(1)
    highest = int(sums.sum(1).argmax())
    others = [n for n in range(len(sums)) if n != highest]
    bounds = np.percentile(means[highest] - means[others], [2.5, 97.5], axis=1)
    return bool(((bounds[0] > 0) | (bounds[1] < 0)).any())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=4000)
    parser.add_argument("--images", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8, 10, 20, 50])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    print("| images | runs | before | today | 95 % intervals that hold 0 |")
    print("|---|---|---|---|---|")
    worst = 0.0
    for images in args.images:
        for runs in args.runs:
            rng = np.random.default_rng([images, runs])
            before, today, held = [], [], []
            for page in range(args.pages):
                sums, counts = drawn_page(images, max(runs, 2), rng)
                found = compare(sums, counts)
                if page < _BEFORE:
                    before.append(said_before(sums, counts, rng))
                today.append(says_beyond_chance(found))
                held += [not (d.low > 0 or d.high < 0) for d in found]
            worst = max(worst, float(np.mean(today)))
            print(
                f"| {images} | {runs} | {np.mean(before):.3f} | {np.mean(today):.3f} | "
                f"{np.mean(held):.3f} |",
                flush=True,
            )
    print(f"\nmost false verdicts: {worst:.3f} of pages; the limit is {LIMIT}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
