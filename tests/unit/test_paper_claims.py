"""What records say about the paper's claims: differences by hand, and verdicts."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.paper import load_claims, load_tables
from mask_rcnn_repro.records.record import make_record
from mask_rcnn_tools.evidence.claims import Claim, Term, claims_to_test
from mask_rcnn_tools.evidence.outcomes import Evidence, collect_evidence
from mask_rcnn_tools.evidence.verdicts import Planned, half_width, interval_of, judge


@functools.cache
def a_record():
    return make_record(
        get_config("quickstart/mask_rcnn_r18_fpn", "tiny"),
        config_id="quickstart/mask_rcnn_r18_fpn",
        profile="mini",
        overrides=[],
        mode="train",
        metrics={},
        seconds_per_image=None,
        iterations_done=None,
        checkpoint=None,
    )


def record(seed=0, changes=None, **metrics):
    """A record with metrics such as segm_AP=30.0."""
    tasks = {}
    for name, value in metrics.items():
        task, metric = name.split("_")
        tasks.setdefault(task, {"per_class": {}})[metric] = value
    content = a_record().model_dump() | {"metrics": tasks, "seed": seed} | (changes or {})
    return type(a_record()).model_validate(content)


def evidence(claim_id, runs, metric="segm/AP"):
    found = [
        e
        for e in collect_evidence(claims_to_test(), runs)
        if e.claim.id == claim_id and e.claim.metric == metric
    ]
    assert len(found) == 1
    return found[0]


def test_every_claim_about_accuracy_can_be_tested():
    known = {claim.id for claim in claims_to_test()}
    left_out = {c["id"] for c in load_claims()} - known
    assert left_out == {"mask-overhead", "c4-slower"} | {
        c["id"] for c in load_claims() if c["better"] is None and c["metric"] == "seconds"
    }


def test_terms_are_rows_of_the_paper_and_give_its_difference():
    tables = load_tables()
    for claim in claims_to_test():
        total = 0.0
        for term in claim.terms:
            row = next(r for r in tables[term.table]["rows"] if r["row"] == term.row)
            task, _, metric = term.metric.partition("/")
            value, of = row.get(task, {}).get(metric), metric.removeprefix("AP (").rstrip(")")
            value = row[task].get("per_class", {}).get(of) if of != metric else value
            if value is None:
                break
            total += term.sign * value
        else:
            assert total == pytest.approx(claim.delta, abs=0.11), (claim.id, claim.metric)


def test_a_difference_is_formed_seed_by_seed():
    runs = {
        ("2c", "RoIAlign ave"): {0: record(segm_AP=30.0), 1: record(1, segm_AP=31.0)},
        ("2c", "RoIPool max"): {0: record(segm_AP=27.5), 1: record(1, segm_AP=31.5), 2: record(2)},
    }
    found = evidence("align-over-pool", runs)
    assert found.by_seed == pytest.approx({0: 2.5, 1: -0.5})
    assert found.mean == pytest.approx(1.0)
    assert (found.verdict, found.reason) == ("interim", "no number of seeds was planned")
    assert found.missing == ()


def test_a_gain_of_gains():
    runs = {
        ("2d", "RoIAlign"): {0: record(segm_AP=30.0)},
        ("2d", "RoIPool"): {0: record(segm_AP=23.0)},
        ("2c", "RoIAlign ave"): {0: record(segm_AP=29.0)},
        ("2c", "RoIPool max"): {0: record(segm_AP=26.0)},
    }
    assert evidence("gain-grows-with-stride", runs).by_seed == pytest.approx({0: 4.0})
    better = evidence("c5-over-c4-with-align", runs)
    assert (better.claim.relation, better.by_seed) == ("greater", pytest.approx({0: 1.0}))
    assert better.verdict == "interim"


def test_rare_classes_are_claims_of_their_own():
    """Section A: fine-tuning from COCO helps truck, bus and train most (4.0 to 9.2 points)."""
    printed = {c.metric: c.delta for c in claims_to_test() if c.id == "coco-init"}
    assert printed == {
        "cityscapes_val/AP": 4.9,
        "cityscapes_val/AP (truck)": 9.2,
        "cityscapes_val/AP (bus)": 4.0,
        "cityscapes_val/AP (train)": 8.2,
    }

    def on_val(truck):
        data = {"fingerprint": f"sha256:{'0' * 64}", "images": 1, "instances": 1}
        changes = {
            "test_data": {"name": "cityscapes_val", **data},
            "metrics": {"segm": {"AP": 30.0, "per_class": {"truck": truck, "bus": None}}},
        }
        return {0: type(a_record()).model_validate(a_record().model_dump() | changes)}

    runs = {
        ("7", "Mask R-CNN fine + COCO"): on_val(40.0),
        ("7", "Mask R-CNN fine"): on_val(33.5),
    }
    assert evidence("coco-init", runs, "cityscapes_val/AP (truck)").by_seed == {0: 6.5}
    assert evidence("coco-init", runs, "cityscapes_val/AP (bus)").verdict == "not run"


@pytest.mark.parametrize(
    ("degrees", "quantile"),  # printed tables of Student's t
    [(1, 6.314), (2, 2.920), (10, 1.812), (30, 1.697), (40, 1.684), (60, 1.671), (120, 1.658)],
)
def test_quantiles_are_those_of_printed_tables(degrees, quantile):
    count = degrees + 1
    assert half_width(count**0.5, count) == pytest.approx(quantile, abs=6e-4)


def test_interval_by_hand():
    # mean 2, s = 1, t(2) = 2.920: 2 +- 2.920 / sqrt(3)
    assert interval_of([1.0, 2.0, 3.0]) == pytest.approx((0.3141, 3.6859), abs=1e-3)
    assert interval_of([1.0]) is None


@pytest.mark.parametrize(
    ("relation", "differences", "verdict"),
    [
        ("greater", [1.0, 2.0, 3.0], "confirmed"),  # 0.31 to 3.69
        ("greater", [5.8, 6.8], "interim"),
        ("greater", [-1.0, -2.0, -3.0], "contradicted"),
        ("greater", [-0.1, 3.0, 1.0], "undecided"),
        ("greater", [0.0, 0.0, 0.0], "undecided"),
        ("greater", [50.0], "interim"),
        ("nearly equal", [0.2, 0.3, 0.1], "confirmed"),  # 0.03 to 0.37
        ("nearly equal", [0.9, -0.9, 0.0], "undecided"),
        ("nearly equal", [2.9, 3.0, 3.1], "contradicted"),
        ("nearly equal", [-2.9, -3.0, -3.1], "contradicted"),
        ("nearly equal", [0.5, 0.6, 0.7], "undecided"),
        ("nearly equal", [], "not run"),
    ],
)
def test_verdicts(relation, differences, verdict):
    claim = Claim("id", "text", relation, "segm/AP", 1.0, (Term(1, "2a", "R50-C4", "segm/AP"),))
    planned = Planned(3, 0.9)
    assert Evidence(dict(enumerate(differences)), claim, planned=planned).verdict == verdict


@given(
    relation=st.sampled_from(["greater", "nearly equal"]),
    differences=st.lists(st.floats(-100, 100), min_size=3, max_size=6),
)
def test_more_can_only_be_said_on_the_side_of_the_mean(relation, differences):
    """A confirmed claim holds for the mean, a contradicted one does not."""
    planned = Planned(len(differences), 0.9)
    by_seed = dict(enumerate(differences))
    verdict = judge(relation, by_seed, planned, effect=3.0, margin=1.0).verdict
    mean = sum(differences) / len(differences)
    held = abs(mean) <= 1 if relation == "nearly equal" else mean > 1
    assert verdict in ({"confirmed", "undecided"} if held else {"contradicted", "undecided"})


def test_runs_that_repeat_each_other_decide_nothing():
    """A model that detects nothing has AP 0 with any seed, and is equal to every other such."""
    for value in (0.0, 3.0):
        same = dict.fromkeys(range(3), value)
        assert judge("greater", same, Planned(3, 0.9), effect=3.0).verdict == "undecided"


def test_nothing_is_concluded_from_tiny():
    tiny = {"config": {**a_record().config.model_dump(), "profile": "tiny"}}
    runs = {
        ("2c", "RoIAlign ave"): {s: record(s, tiny, segm_AP=30.0 + s) for s in range(3)},
        ("2c", "RoIPool max"): {s: record(s, tiny, segm_AP=20.0) for s in range(3)},
    }
    found = evidence("align-over-pool", runs)
    assert (found.verdict, found.profile) == ("undecided", "tiny")
    judged = judge("greater", found.by_seed, Planned(3, 0.9), effect=3.0, profile="mini")
    assert judged.verdict == "confirmed"


def test_a_row_without_training_counts_at_the_seed_of_its_weights():
    """Test-time augmentation with seed 1 evaluates the weights of seed 0 again."""
    source = {"id": "table8/non_local", "hash": "0" * 12, "seed": 0, "checkpoint": None}
    untrained = {"iterations_planned": 0, "init_from": source}
    runs = {
        ("8", "+ test-time augm."): {s: record(s, untrained, segm_AP=30.0 + s) for s in (0, 1)},
        ("8", "+ Non-local"): {s: record(s, segm_AP=29.0) for s in (0, 1)},
    }
    assert evidence("enhanced-tta", runs).by_seed == {0: 1.0}


def test_nothing_is_said_without_all_rows():
    assert (
        evidence("align-over-pool", {("2c", "RoIPool max"): {0: record(segm_AP=27.5)}}).mean is None
    )
    missing_metric = {
        ("2c", "RoIAlign ave"): {0: record(bbox_AP=30.0)},
        ("2c", "RoIPool max"): {0: record(segm_AP=27.5)},
    }
    assert evidence("align-over-pool", missing_metric).verdict == "not run"
    only_one = evidence("align-over-pool", {("2c", "RoIPool max"): {0: record(segm_AP=27.5)}})
    assert only_one.missing == (("2c", "RoIAlign ave"),)
    assert only_one.reason == "no run of RoIAlign ave (2c)"
