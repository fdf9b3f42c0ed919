"""From made-up measurements with known differences to figures and verdicts."""

import numpy as np
import pytest

from maskgen.analysis.separation import auroc
from maskgen.reproduce.findings import (
    ALL,
    AUROC,
    BLIND,
    CLAIMS,
    MASS,
    PRESENCE,
    Claim,
    difference,
    mean_cosines,
    model_estimate,
    verdict,
    yes_answers,
)
from maskgen.reproduce.measure import is_correct


def measured(seed, right_of_ten=5, mass=0.1, gap=0.0):
    """Forty scenes of ten questions, `right_of_ten` of which are answered rightly with the picture."""
    random = np.random.default_rng(seed)
    rows = []
    for scene in range(40):
        for number in range(10):
            true, false = ("Yes", "No") if number % 2 else ("No", "Yes")
            rows.append(
                {
                    "scene": scene,
                    "family": "presence/adversarial" if number < 5 else "count",
                    "question": f"{scene} {number}?",
                    "expected": true,
                    "image": f"{true.lower()}." if number < right_of_ten else false,
                    "blind": true if number < 4 else false,
                    "shuffled": false,
                }
            )
    shares = np.clip(random.normal(mass, 0.02, 40), 0, 1).tolist()
    return {
        "answers": rows,
        "looking": dict.fromkeys(("mass", "pointing", "iou", "even", "other_text"), shares),
        "similarity": {
            "matching": random.normal(gap, 1, 50).tolist(),
            "other": random.normal(0, 1, 50).tolist(),
            "probe": [0.5] * 5,
        },
        "language": {"loss": [8.0] * 5, "tokens": [4.0] * 5},
    }


FOUND = {
    "concat": [measured(seed) for seed in range(3)],
    "ca-baseline": [measured(seed) for seed in range(3)],
    "age-vlm": [measured(seed, right_of_ten=8, mass=0.3, gap=2.0) for seed in range(10, 13)],
    "age-vlm-lm": [measured(seed, right_of_ten=8, mass=0.4) for seed in range(20, 23)],
}


def test_answers_count_whatever_their_case_and_full_stop():
    assert (
        is_correct("Yes", "yes.")
        and is_correct("Two", "two")
        and not is_correct("Yes", "Yes, a star")
        and not is_correct("No", "")
    )
    assert model_estimate(FOUND, "age-vlm", ALL).value == pytest.approx(0.8)
    assert model_estimate(FOUND, "ca-baseline", PRESENCE).value == 1.0
    assert yes_answers(FOUND["ca-baseline"][0])[0].mean() == pytest.approx(0.4)


def test_what_the_picture_is_worth():
    assert model_estimate(FOUND, "ca-baseline", BLIND).value == pytest.approx(0.1)


def test_the_auroc_is_the_analysis_own():
    one = FOUND["age-vlm"][0]["similarity"]
    own = AUROC.values(FOUND["age-vlm"][0])[0].mean()
    assert own == pytest.approx(auroc(np.array(one["matching"]), np.array(one["other"])))
    assert mean_cosines(FOUND, "age-vlm")["matching"] > mean_cosines(FOUND, "age-vlm")["other"] + 1.5


def test_verdicts():
    assert verdict(difference(FOUND, Claim("", MASS, "age-vlm", "ca-baseline"))) == "holds"
    assert verdict(difference(FOUND, Claim("", MASS, "ca-baseline", "age-vlm"))) == "the opposite holds"
    assert verdict(difference(FOUND, Claim("", ALL, "age-vlm-lm", "age-vlm"))) == "not shown"


def test_every_claim_can_be_judged():
    assert {verdict(difference(FOUND, claim)) for claim in CLAIMS} <= {
        "holds",
        "not shown",
        "the opposite holds",
    }
