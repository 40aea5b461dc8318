"""What records say about the paper's claims: differences by hand, verdicts, and the page."""

import functools

import pytest

from mask_rcnn_repro.config import get_config
from mask_rcnn_repro.evaluation.records import make_record
from mask_rcnn_repro.paper import load_claims, load_tables
from mask_rcnn_repro.paper.claims import Claim, Evidence, Term, claims_to_test, collect_evidence
from mask_rcnn_repro.paper.claims_page import format_claims_page


@functools.cache
def a_record():
    return make_record(
        get_config("quickstart/mask_rcnn_r18_fpn", "tiny"),
        config_id="quickstart/mask_rcnn_r18_fpn",
        profile="tiny",
        overrides=[],
        mode="train",
        metrics={},
        seconds_per_image=None,
        iterations_done=None,
        checkpoint=None,
    )


def record(seed=0, **metrics):
    """A record with metrics such as segm_AP=30.0."""
    tasks = {}
    for name, value in metrics.items():
        task, metric = name.split("_")
        tasks.setdefault(task, {"per_class": {}})[metric] = value
    content = a_record().model_dump() | {"metrics": tasks, "seed": seed}
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
            value = row.get(task, {}).get(metric)
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
    assert found.verdict == "mixed"


def test_a_gain_of_gains():
    runs = {
        ("2d", "RoIAlign"): {0: record(segm_AP=30.0)},
        ("2d", "RoIPool"): {0: record(segm_AP=23.0)},
        ("2c", "RoIAlign ave"): {0: record(segm_AP=29.0)},
        ("2c", "RoIPool max"): {0: record(segm_AP=26.0)},
    }
    assert evidence("gain-grows-with-stride", runs).by_seed == pytest.approx({0: 4.0})
    assert evidence("c5-over-c4-with-align", runs).verdict == "as in the paper"


@pytest.mark.parametrize(
    ("relation", "differences", "verdict"),
    [
        ("greater", [0.1, 3.0], "as in the paper"),
        ("greater", [-0.1, -3.0], "not as in the paper"),
        ("greater", [-0.1, 3.0], "mixed"),
        ("greater", [0.0], "not as in the paper"),
        ("nearly equal", [0.9, -1.0], "as in the paper"),
        ("nearly equal", [1.1], "not as in the paper"),
        ("nearly equal", [], "not run"),
    ],
)
def test_verdicts(relation, differences, verdict):
    claim = Claim("id", "text", relation, "segm/AP", 1.0, (Term(1, "2a", "R50-C4", "segm/AP"),))
    assert Evidence(claim, dict(enumerate(differences))).verdict == verdict


def test_nothing_is_said_without_all_rows():
    assert (
        evidence("align-over-pool", {("2c", "RoIPool max"): {0: record(segm_AP=27.5)}}).mean is None
    )
    missing_metric = {
        ("2c", "RoIAlign ave"): {0: record(bbox_AP=30.0)},
        ("2c", "RoIPool max"): {0: record(segm_AP=27.5)},
    }
    assert evidence("align-over-pool", missing_metric).verdict == "not run"


def test_the_page_of_nothing_says_so():
    page = format_claims_page([("2c", "RoIPool max", "table2c/roi_pool_max")], [])
    assert page.count("Not run.") == 2
