"""The rule of verdicts on synthetic data: coverage, false confirmations, power, image bootstrap."""

import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.special import nctdtr, stdtrit

from mask_rcnn_repro.errors import ConfigError, RecordError
from mask_rcnn_repro.evaluation.coco.hotcoco_backend import hotcoco_evaluation
from mask_rcnn_tools.evidence import image_bootstrap
from mask_rcnn_tools.evidence.claims import NEARLY, Claim, Term, claims_to_test
from mask_rcnn_tools.evidence.image_bootstrap import (
    Bootstrap,
    KnownReplicates,
    image_counts,
    load_bootstrap,
    sampled_ap,
    save_bootstrap,
)
from mask_rcnn_tools.evidence.outcomes import collect_evidence
from mask_rcnn_tools.evidence.power import plan_seeds, power
from mask_rcnn_tools.evidence.seed_plan import (
    FEWEST_DEGREES,
    PlannedClaim,
    SeedPlan,
    load_plan,
    measure_scatter,
    plan_claims,
    save_plan,
)
from mask_rcnn_tools.evidence.verdicts import (
    BOOTSTRAP_SAMPLES,
    ERROR,
    FEWEST_SEEDS,
    LOW_POWER,
    RULE,
    SMALL_EFFECT,
    VERDICTS,
    Planned,
    half_width,
    interval_of,
    judge,
)
from mask_rcnn_tools.tables.seeds import planned_seeds

from .test_paper_claims import record

ROOT = Path(__file__).resolve().parents[2]
RELATIONS = ("greater", "nearly equal")


def simulated(rng, effect, seed_sd, image_sd, seeds, runs):
    """Differences of experiments (runs, seeds): all seeds of one share its test images."""
    images = rng.normal(0, image_sd, (runs, 1))
    return effect + images + rng.normal(0, seed_sd, (runs, seeds))


def verdicts(relation, draws, image_sd, margin, effect=5.0):
    planned = Planned(draws.shape[1], 0.9)
    options = {"effect": effect, "margin": margin, "image_sd": image_sd}
    judged = [judge(relation, dict(enumerate(map(float, d))), planned, **options) for d in draws]
    return np.array([j.verdict for j in judged])


@pytest.mark.parametrize("seeds", [3, 4, 8])
@pytest.mark.parametrize("image_sd", [0.0, 0.3, 0.6, 2.0])
def test_each_end_of_the_interval_is_wrong_in_5_percent(seeds, image_sd):
    draws = simulated(np.random.default_rng(seeds), 2.0, 1.0, image_sd, seeds, 20000)
    means, half = draws.mean(axis=1), half_width(draws.std(axis=1, ddof=1), seeds, image_sd)
    assert interval_of(list(draws[0]), image_sd) == pytest.approx(
        (means[0] - half[0], means[0] + half[0])
    )
    wrong = (means - half > 2.0).mean(), (means + half < 2.0).mean()
    # exact without images; the degrees of freedom of Welch and Satterthwaite are an approximation
    assert wrong == pytest.approx((0.05, 0.05), abs=0.005 if image_sd == 0 else 0.015)


@pytest.mark.parametrize(
    ("relation", "effect"),
    [("greater", 0.6), ("nearly equal", 0.6), ("nearly equal", -0.6), ("at least", -0.6)],
)
def test_false_claims_are_confirmed_in_at_most_5_percent(relation, effect):
    """At the edge of what would be true, where the chance is largest."""
    for image_sd in (0.0, 0.05):
        draws = simulated(np.random.default_rng(7), effect, 0.2, image_sd, 4, 3000)
        found = verdicts(relation, draws, image_sd, 0.6)
        assert (found == "confirmed").mean() == pytest.approx(0.05, abs=0.015)


def test_the_opposite_of_a_claim_is_contradicted_and_never_confirmed():
    rng = np.random.default_rng(3)
    found = verdicts("greater", simulated(rng, -3.0, 0.5, 0.0, 4, 500), 0.0, 0.0)
    assert (found == "contradicted").mean() > 0.95
    assert not (found == "confirmed").any()
    found = verdicts("nearly equal", simulated(rng, 3.0, 0.5, 0.0, 4, 500), 0.0, 0.6)
    assert (found == "contradicted").mean() > 0.95


def test_looking_at_every_seed_would_confirm_more_false_claims():
    """Why the number of seeds is fixed: stopping at the first confirmation from 3 seeds on."""
    draws = simulated(np.random.default_rng(11), 0.0, 1.0, 0.0, 8, 1000)
    stopped = np.zeros(len(draws), bool)
    for seeds in range(3, 9):
        stopped |= verdicts("greater", draws[:, :seeds], 0.0, 0.0) == "confirmed"
    fixed = verdicts("greater", draws, 0.0, 0.0) == "confirmed"
    assert fixed.mean() == pytest.approx(0.05, abs=0.02)
    assert stopped.mean() > 0.1


def test_stages_that_matter_make_the_interval_too_narrow():
    """Two RPN stages in rotation: the share of the variance that is theirs, against the error."""
    rng = np.random.default_rng(5)
    error = {}
    for share in (0.0, 0.25):
        stages = rng.normal(0, share**0.5, (20000, 2))
        draws = rng.normal(0, (1 - share) ** 0.5, (20000, 4)) + stages[:, [0, 1, 0, 1]]
        error[share] = (draws.mean(axis=1) > half_width(draws.std(axis=1, ddof=1), 4)).mean()
    assert error[0.0] == pytest.approx(0.05, abs=0.007)
    assert error[0.25] == pytest.approx(0.07, abs=0.01), "docs/statistics.md names it"


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 3), (2.0, 3), (2.0, 5), (1.0, 8), (0.5, 6)])
def test_power_is_that_of_the_noncentral_t_distribution(effect, seeds):
    critical = stdtrit(seeds - 1, 0.95)
    exact = 1 - nctdtr(seeds - 1, effect * seeds**0.5, critical)
    assert power("greater", effect, 1.0, seeds) == pytest.approx(exact, abs=5e-4)
    # the same question in other units
    assert power("greater", 3 * effect, 3.0, seeds) == pytest.approx(exact, abs=5e-4)


def test_power_by_hand():
    """n = 2, where s is |z| sigma and t = tan(0.45 pi): an integral that has a closed form at 0."""
    assert power("greater", 0.0, 1.0, 2) == pytest.approx(0.05, abs=1e-3)
    # one-sided t test, effect of one standard deviation, 8 pairs, 5 %: 0.815 (tables of G*Power)
    assert power("greater", 1.0, 1.0, 8) == pytest.approx(0.815, abs=1e-3)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("image_sd", [0.0, 0.2])
def test_power_is_the_share_of_simulated_confirmations(relation, image_sd):
    effect = {"greater": 0.8, "nearly equal": 0.1}[relation]
    draws = simulated(np.random.default_rng(1), effect, 0.5, image_sd, 5, 1500)
    shown = (verdicts(relation, draws, image_sd, 0.6) == "confirmed").mean()
    computed = power(relation, effect, 0.5, 5, image_sd=image_sd, margin=0.6)
    assert computed == pytest.approx(shown, abs=0.04)
    assert 0.05 < computed < 0.95


def test_the_planned_number_is_the_smallest_that_is_enough():
    seeds, reached = plan_seeds("greater", 1.0, 0.7)
    assert reached >= 0.8 > power("greater", 1.0, 0.7, seeds - 1)
    assert plan_seeds("greater", 10.0, 0.7)[0] == FEWEST_SEEDS
    assert plan_seeds("greater", 0.1, 0.7, most=6)[0] == 6
    # more seeds do not help against the choice of images
    assert power("greater", 1.0, 0.01, 50, image_sd=1.0) < 0.3


PLANNED = Planned(4, 0.9)
GOOD = {0: 3.0, 1: 3.1, 2: 2.9, 3: 3.2}


@pytest.mark.parametrize(
    ("by_seed", "planned", "options", "verdict"),
    [
        (GOOD, PLANNED, {}, "confirmed"),
        ({s: -v for s, v in GOOD.items()}, PLANNED, {}, "contradicted"),
        ({s: GOOD[s] for s in (0, 1, 2)}, PLANNED, {}, "interim"),
        ({**{s: GOOD[s] for s in (0, 1, 2)}, 7: 3.0}, PLANNED, {}, "interim"),  # not a planned seed
        ({s: GOOD[s] for s in (0, 1)}, Planned(2, 0.9), {}, "interim"),  # never below three
        (GOOD, None, {}, "interim"),
        (GOOD, PLANNED, {"stages": (0,)}, "interim"),
        (GOOD, PLANNED, {"stages": (0, 1)}, "confirmed"),
        (GOOD, PLANNED, {"image_sd": 3.0}, "undecided"),
        (GOOD, Planned(4, 0.5), {}, "confirmed"),  # an effect of 3 points
        (GOOD, Planned(4, 0.5), {"effect": 0.9}, "estimate only"),
        (GOOD, Planned(4, 0.7), {"effect": 0.9}, "confirmed"),
        ({**GOOD, 4: -50.0}, PLANNED, {}, "confirmed"),  # beyond the plan
        (dict.fromkeys(range(4), 3.0), PLANNED, {}, "undecided"),
        (GOOD, PLANNED, {"profile": "tiny"}, "undecided"),
        ({}, PLANNED, {}, "not run"),
    ],
)
def test_the_plan_decides_what_is_a_verdict(by_seed, planned, options, verdict):
    assert judge("greater", by_seed, planned, **({"effect": 3.0} | options)).verdict == verdict


def test_the_rule_in_words_has_the_numbers_of_the_code():
    for text in (f"{100 * ERROR:.0f} %", f"{100 * LOW_POWER:.0f} %", f"fewer than {FEWEST_SEEDS}"):
        assert text in RULE
    assert f"less than {SMALL_EFFECT:g} point" in RULE
    named = {v for v in VERDICTS if f"*{v}*" in RULE}
    assert named == set(VERDICTS) - {"not run"}


def test_margins_are_below_a_third_of_the_largest_effect():
    """Class-agnostic masks are compared on the network of table 2b, which has no such claim."""
    claims = claims_to_test()
    for claim in (c for c in claims if c.margin):
        tables = {t.table for t in claim.terms} | (
            {"2b"} if claim.id == "class-agnostic" else set()
        )
        largest = max(
            abs(c.delta)
            for c in claims
            if c.metric == claim.metric and tables & {t.table for t in c.terms}
        )
        assert claim.margin == NEARLY < largest / 3, claim.id


# -- image bootstrap ------------------------------------------------------------------------------


def scene(rng, images=12, quality=0.8):
    """Ground truth and detections of two classes; a few detections share a score."""
    annotations, detections = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = (float(v) for v in rng.integers(5, 60, 4))
            category = int(rng.integers(1, 3))
            crowd = int(rng.random() < 0.1)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category,
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd}
            )  # fmt: skip
            if rng.random() < quality:
                box = [x + rng.normal(), y + rng.normal(), w, h]
                score = round(float(rng.random()), 2)
                detections.append(
                    {"image_id": image, "category_id": category, "bbox": box, "score": score}
                )
        detections.append(
            {"image_id": image, "category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0],
             "score": round(float(rng.random()), 2)}
        )  # fmt: skip
    content = {
        "images": [{"id": i, "width": 99, "height": 99} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": annotations,
    }
    return content, detections


def evaluated(content, detections):
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def duplicated(content, detections, counts):
    """The data set in which each image is as often as it was drawn."""
    copies = {i + 1: [100 * (i + 1) + k for k in range(n)] for i, n in enumerate(counts)}
    made = {"categories": content["categories"]}
    made["images"] = [{**im, "id": c} for im in content["images"] for c in copies[im["id"]]]
    rows = [{**a, "image_id": c} for a in content["annotations"] for c in copies[a["image_id"]]]
    made["annotations"] = [{**row, "id": k + 1} for k, row in enumerate(rows)]
    return made, [{**d, "image_id": c} for d in detections for c in copies[d["image_id"]]]


def test_a_sample_is_the_data_set_with_its_images_repeated(capsys):
    """Against pycocotools on data sets that really hold the copies."""
    content, detections = scene(np.random.default_rng(2))
    counts = np.vstack([np.ones((1, 12), int), image_counts(12, 6)])
    ap = sampled_ap(evaluated(content, detections), counts)
    assert ap.shape == (7, 2, 10)
    for row, times in zip(ap, counts, strict=True):
        precision = evaluated(*duplicated(content, detections, times)).eval["precision"]
        exact = precision[:, :, :, 0, -1].mean(axis=1)
        assert np.abs(row.T - exact).max() < 1e-12


def test_matches_by_hotcoco_give_the_same(capsys):
    content, detections = scene(np.random.default_rng(2))
    reference = evaluated(content, detections)
    options = {"image_ids": list(range(1, 13)), "category_ids": [1, 2], "max_dets": [1, 10, 100]}
    fast = hotcoco_evaluation(
        reference.cocoGt, detections, "bbox", each_image=True, oks_sigmas=[], **options
    )
    counts = image_counts(12, 6)
    assert np.array_equal(sampled_ap(fast, counts), sampled_ap(reference, counts), equal_nan=True)


def test_a_class_without_objects_in_a_sample_is_undefined(capsys):
    content, detections = scene(np.random.default_rng(2))
    cars = {a["image_id"] for a in content["annotations"] if a["category_id"] == 2}
    counts = np.array([[int(i not in cars) for i in range(1, 13)]])
    ap = sampled_ap(evaluated(content, detections), counts)
    assert not np.isnan(ap[0, 0]).any()
    assert np.isnan(ap[0, 1]).all()


def test_samples_are_the_same_for_every_run_and_of_the_right_size():
    counts = image_counts(50)
    assert counts.shape == (BOOTSTRAP_SAMPLES, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert (counts == image_counts(50)).all()


def difference(evaluations, counts):
    """AP of one evaluation minus that of another, on samples (B,)."""
    first, second = (np.nanmean(sampled_ap(e, counts), axis=(1, 2)) for e in evaluations)
    return first - second


def test_paired_deviation_is_that_of_other_methods(capsys):
    """The jackknife, which leaves out one image at a time, and hotcoco's comparison.

    hotcoco draws images with replacement as well, but counts each drawn image once. Its standard
    error is that of 63 % of the images without replacement, 0.76 of the bootstrap's.
    """
    rng = np.random.default_rng(4)
    content, better = scene(rng, images=120, quality=0.9)
    worse = [d for d in better if rng.random() < 0.8]
    pair = [evaluated(content, found) for found in (better, worse)]
    counts = image_counts(120)
    paired = np.std(difference(pair, counts), ddof=1)
    left_out = difference(pair, 1 - np.eye(120, dtype=int))
    assert paired == pytest.approx((119 * np.var(left_out)) ** 0.5, rel=0.15)
    apart = np.hypot(*(np.std(np.nanmean(sampled_ap(e, counts), axis=(1, 2))) for e in pair))
    assert paired < 0.9 * apart, "pairing takes out what is common"
    truth = hotcoco.COCO(content)
    theirs = [hotcoco.COCOeval(truth, truth.load_res(found), "bbox") for found in (better, worse)]
    for evaluation in theirs:
        evaluation.evaluate()
        evaluation.accumulate()
    error = hotcoco.compare(*theirs, n_bootstrap=1000, seed=1)["ci"]["AP"]["std_err"]
    once = np.std(difference(pair, np.minimum(counts, 1)), ddof=1)
    assert once == pytest.approx(error, rel=0.15)
    assert once < 0.85 * paired


def bootstrap(made, **values):
    return Bootstrap(
        schema_version=1,
        record={k: getattr(made.config, k) for k in ("id", "hash")}
        | {"seed": made.seed, "created": made.created},
        images=9,
        values={name.replace("_", "/"): v for name, v in values.items()},
    )


def test_a_bootstrap_file_is_read_as_it_was_written(tmp_path):
    made = bootstrap(record(), segm_AP=[30.0, 31.5] * 100, bbox_AP=[1.0, 2.0] * 100)
    save_bootstrap(made, tmp_path / "seed0.bootstrap.json")
    assert load_bootstrap(tmp_path / "seed0.bootstrap.json") == made
    (tmp_path / "broken.json").write_text('{"schema_version": 1, "values": {}}')
    with pytest.raises(RecordError, match=r"is no bootstrap[\s\S]*images"):
        load_bootstrap(tmp_path / "broken.json")


def test_a_broken_bootstrap_is_left_aside(tmp_path, caplog):
    good, other = record(0, segm_AP=30.0), record(1, segm_AP=31.0)
    save_bootstrap(bootstrap(good, segm_AP=[30.0] * BOOTSTRAP_SAMPLES), tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    made = json.loads((tmp_path / "a.json").read_text())
    made["record"]["seed"] = 1
    made["values"]["segm/AP"].pop()  # fewer samples than there are
    (tmp_path / "c.json").write_text(json.dumps(made))
    known = KnownReplicates([*sorted(tmp_path.iterdir()), tmp_path / "gone.json"])
    assert known(good) == {"segm/AP": [30.0] * BOOTSTRAP_SAMPLES}
    assert known(other) is None
    for name in ("b.json", "c.json", "gone.json"):
        assert f"{tmp_path / name}" in caplog.text
    made["values"]["segm/AP"].append(30.0)
    (tmp_path / "c.json").write_text(json.dumps(made))
    assert KnownReplicates([tmp_path / "c.json"])(other) is not None


def test_a_run_keeps_its_record_whatever_the_bootstrap_raises(tmp_path, monkeypatch, caplog):
    asked = []

    def fails(made, results):
        asked.append(made.test_data.images)
        raise IndexError("of an evaluator")

    monkeypatch.setattr(image_bootstrap, "bootstrap_of_run", fails)
    for images in (2000, 2001):  # more would take minutes
        made = record(0, {"test_data": {**data()["test_data"], "images": images}}, segm_AP=30.0)
        image_bootstrap.write_bootstrap(made, tmp_path, tmp_path / "bootstrap.json")
    assert asked == [2000]
    assert "IndexError: of an evaluator" in caplog.text
    assert not list(tmp_path.iterdir())
    caplog.clear()
    of = bootstrap(made, segm_AP=[30.0] * BOOTSTRAP_SAMPLES)
    monkeypatch.setattr(image_bootstrap, "bootstrap_of_run", lambda made, results: of)
    small = record(0, data(), segm_AP=30.0)
    image_bootstrap.write_bootstrap(small, tmp_path, tmp_path)  # a folder is no file
    assert "No bootstrap over test images" in caplog.text


def evidence(runs, replicates, plan=None):
    claim = next(c for c in claims_to_test() if c.id == "align-over-pool")
    return collect_evidence([claim], runs, plan, replicates)[0]


def data(fingerprint="sha256:" + "a" * 64):
    return {"test_data": {"name": "d", "images": 9, "fingerprint": fingerprint, "instances": 9}}


def test_the_images_part_of_a_difference_by_hand():
    """Seed 0: D on two samples 1 and 3; seed 1: 2 and 6. Means 1.5 and 4.5: deviation 2.121."""
    runs = {
        ("2c", "RoIAlign ave"): {s: record(s, data(), segm_AP=30.0 + s) for s in (0, 1)},
        ("2c", "RoIPool max"): {s: record(s, data(), segm_AP=27.0) for s in (0, 1)},
    }
    samples = {(0, 30.0): [10.0, 20.0], (0, 27.0): [9.0, 17.0]}
    samples |= {(1, 31.0): [12.0, 26.0], (1, 27.0): [10.0, 20.0]}

    def replicates(of):
        return {"segm/AP": samples[of.seed, of.metrics["segm"].values()["AP"]]}

    found = evidence(runs, replicates)
    assert found.by_seed == {0: 3.0, 1: 4.0}
    assert found.image_sd == pytest.approx(2.1213, abs=1e-4)
    assert tuple(found.interval) == pytest.approx(tuple(interval_of([3.0, 4.0], 2.12132)), abs=1e-3)
    assert evidence(runs, lambda of: None).image_sd is None
    for row, ap in (("RoIAlign ave", 30.0), ("RoIPool max", 27.0)):
        runs["2c", row][0] = record(0, data("sha256:" + "b" * 64), segm_AP=ap)
    found = evidence(runs, replicates)
    assert (found.by_seed, found.image_sd) == ({0: 3.0, 1: 4.0}, None), "other images"


@pytest.mark.parametrize(("key", "word"), [("test_data", "test"), ("train_data", "training")])
def test_runs_on_unlike_data_of_one_name_are_not_compared(key, word):
    def of(letter, name="d"):
        return {key: {**data("sha256:" + letter * 64)["test_data"], "name": name}}

    ours = {s: record(s, of("a"), segm_AP=30.0) for s in range(4)}
    theirs = {s: record(s, of("a"), segm_AP=27.0) for s in range(4)}
    theirs[1] = record(1, of("b"), segm_AP=20.0)
    theirs[2] = record(2, of("b", "another"), segm_AP=26.0)  # a row on other data by intention
    theirs[3] = record(3, {key: None}, segm_AP=25.0)  # not known
    runs = {("2c", "RoIAlign ave"): ours, ("2c", "RoIPool max"): theirs}
    found = evidence(runs, lambda of: None)
    assert found.by_seed == {0: 3.0, 2: 4.0, 3: 5.0}
    why = f"seed 1 is left out: the runs' {word} data differ"
    assert found.reason == f"no number of seeds was planned; {why}"


def test_a_row_without_training_is_compared_on_weights_of_every_seed():
    """Its weights are its control's of the same seed; those started from one of two stages."""

    def init_from(name, seed):
        return {"init_from": {"id": name, "hash": "0" * 12, "seed": seed, "checkpoint": None}}

    def trained(seed):
        changes = init_from("pretrain/r50", seed % 2) | {"iterations_planned": 9}
        return record(seed, changes | {"iterations_done": 9}, segm_AP=30.0)

    def evaluated(seed):
        changes = init_from("control", seed) | {"iterations_planned": 0, "iterations_done": None}
        return record(seed, changes, segm_AP=31.0)

    runs = {
        ("2c", "RoIAlign ave"): {s: evaluated(s) for s in range(4)},
        ("2c", "RoIPool max"): {s: trained(s) for s in range(4)},
    }
    assert evidence(runs, lambda of: None).by_seed == dict.fromkeys(range(4), 1.0)
    runs["2c", "RoIAlign ave"] = {
        s: trained(s + s // 2).model_copy(update={"seed": s}) for s in range(4)
    }
    assert set(evidence(runs, lambda of: None).by_seed) == {0, 1}


def stage(seed):
    return {"proposals": {"id": "rpn/r50_c4", "hash": "0" * 12, "seed": seed, "checkpoint": None}}


def test_rows_are_compared_on_the_same_stage():
    runs = {
        ("2c", "RoIAlign ave"): {s: record(s, stage(s % 2), segm_AP=30.0 + s) for s in range(4)},
        ("2c", "RoIPool max"): {s: record(s, stage(s % 2), segm_AP=27.1) for s in range(4)},
    }
    plan = {("align-over-pool", "segm/AP"): Planned(3, 0.9)}
    found = evidence(runs, lambda of: None, plan)
    assert (set(found.by_seed), found.stages) == ({0, 1, 2}, (0, 1)), "seed 3 is not planned"
    runs["2c", "RoIPool max"][1] = record(1, stage(0), segm_AP=27.1)
    found = evidence(runs, lambda of: None, plan)
    assert set(found.by_seed) == {0, 2, 3}
    why = "seed 1 is left out: the runs' stages have unlike seeds"
    assert (found.verdict, found.reason) == ("interim", f"2 of 3 planned seeds; {why}")


# -- plan -----------------------------------------------------------------------------------------


def test_scatter_of_baselines_by_hand():
    """Variances 2 (one degree) and 1 (two degrees) pool to (2 + 2) / 3."""
    two = {0: record(0, segm_AP=30.0), 1: record(1, segm_AP=32.0)}
    three = {s: record(s, segm_AP=20.0 + s) for s in range(3)}
    samples = {30.0: [1.0, 2.0], 32.0: [5.0, 2.0]}

    def replicates(of):
        values = samples.get(of.metrics["segm"].values()["AP"])
        return None if values is None else {"segm/AP": values}

    one = {0: record(segm_AP=3.0)}
    baselines = {"a": two, "b": three, "c": one}
    found = measure_scatter(baselines, ["segm/AP", "bbox/AP"], replicates)
    assert list(found) == ["segm/AP"]
    scatter = found["segm/AP"]
    assert scatter.seed_sd == pytest.approx((4 / 3) ** 0.5, abs=1e-3)
    assert (scatter.degrees, scatter.runs) == (3, {"a": [0, 1], "b": [0, 1, 2]})
    # differences of the two runs on the samples: -4, 0
    assert scatter.image_sd == pytest.approx(2.828, abs=1e-3)
    nearly = {s: record(s, segm_AP=30.0 + s / 2500) for s in range(3)}  # deviation 0.0004
    assert measure_scatter({"a": nearly}, ["segm/AP"]) == {}


def test_no_claim_is_planned_from_few_degrees_of_freedom():
    baselines = {name: {s: record(s, segm_AP=30.0 + s) for s in range(2)} for name in "abcd"}
    few = measure_scatter({k: baselines[k] for k in "abc"}, ["segm/AP"])
    made = plan_claims([(claim(), 0)], few, None, 0.8, 8)
    assert (made.claims, made.scatter) == ([], {}), "three degrees"
    enough = measure_scatter(baselines, ["segm/AP"])
    assert enough["segm/AP"].degrees == FEWEST_DEGREES
    made = plan_claims([(claim(), 0)], enough, made, 0.8, 8)
    assert (len(made.claims), made.scatter) == (1, enough)


def claim(name="c", delta=3.0, relation="greater", terms=2):
    signs = (1, -1, -1, 1)
    made = tuple(Term(signs[i], "2c", f"row {i}", "segm/AP") for i in range(terms))
    return Claim(name, "text", relation, "segm/AP", delta, made)


SPREAD = (0.0, 0.0, 0.5, 1.0, 1.0)  # squares of deviations sum to 1: variance 1 / 4


def test_a_claim_is_planned_once(tmp_path):
    baselines = {"a": {s: record(s, segm_AP=30.0 + v) for s, v in enumerate(SPREAD)}}
    scatter = measure_scatter(baselines, ["segm/AP"])
    pairs = [(claim(), 2), (claim("four", terms=4), 0), (claim("small", 0.2), 0)]
    plan = plan_claims(pairs, scatter, None, 0.8, 8)
    first, four, small = plan.claims
    assert first.seed_sd == pytest.approx(0.5 * 2**0.5, abs=1e-3)
    assert four.seed_sd == pytest.approx(1.0, abs=1e-3)
    seeds, reached = plan_seeds("greater", 3.0, 0.5 * 2**0.5)
    assert (first.seeds, first.power, first.seen) == (seeds, pytest.approx(reached, abs=1e-3), 2)
    assert small.seeds == FEWEST_SEEDS
    assert small.power < 0.6
    # more runs, other effects: what is fixed stays
    wider = measure_scatter(
        {"a": {s: record(s, segm_AP=30.0 + 9 * s) for s in range(5)}}, ["segm/AP"]
    )
    again = plan_claims([(claim(delta=0.1), 5), (claim("new"), 0)], wider, plan, 0.8, 8)
    assert again.claims[:3] == plan.claims
    assert again.claims[3].seed_sd > 5
    file = save_plan(SeedPlan(profiles={"mini": again}), tmp_path)
    assert load_plan(tmp_path) == SeedPlan(profiles={"mini": again})
    assert max(map(len, file.read_text().splitlines())) < 260
    assert load_plan(tmp_path).planned("mini")["c", "segm/AP"] == (seeds, first.power)
    assert load_plan(tmp_path).planned("paper") == {}
    assert load_plan(None) == load_plan(tmp_path / "none") == SeedPlan()


def two_claims():
    """A plan of the claims of tables 2b (+5.5) and 2c (+3.4) in mask AP; baselines scatter by 2."""
    baselines = {"a": {s: record(s, segm_AP=30.0 + 4 * v) for s, v in enumerate(SPREAD)}}
    known = {(c.id, c.metric): c for c in claims_to_test()}
    pairs = [(known[name, "segm/AP"], 0) for name in ("sigmoid", "align-over-pool")]
    made = plan_claims(pairs, measure_scatter(baselines, ["segm/AP"]), None, 0.8, 8)
    return SeedPlan(profiles={"mini": made})


def test_a_plan_below_three_seeds_is_refused(tmp_path):
    content = two_claims().model_dump(mode="json")
    content["profiles"]["mini"]["claims"][0]["seeds"] = 2
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"is no plan of seeds[\s\S]*seeds"):
        load_plan(tmp_path)


def test_the_committed_plan_is_of_claims_that_exist_and_gives_its_power():
    plan = load_plan(ROOT / "results")
    for scale in plan.profiles.values():
        known = {(c.id, c.metric): c for c in claims_to_test()}
        for planned in scale.claims:
            assert isinstance(planned, PlannedClaim)
            assert (planned.id, planned.metric) in known or "/" in planned.id
            options = {"image_sd": planned.image_sd, "margin": planned.margin}
            again = power(
                planned.relation, planned.effect, planned.seed_sd, planned.seeds, **options
            )
            assert planned.power == pytest.approx(again, abs=2e-3)


def test_seeds_as_planned():
    plan = two_claims()
    counts = {claim.id: claim.seeds for claim in plan.profiles["mini"].claims}
    assert counts["sigmoid"] < counts["align-over-pool"]
    of_rows = planned_seeds(["2b", "2c"], "mini", plan)
    needed = {
        ("2b", "softmax"): counts["sigmoid"],
        ("2c", "RoIPool max"): counts["align-over-pool"],
        ("2c", "RoIAlign ave"): counts["align-over-pool"],
        ("2c", "RoIWarp max"): 3,  # none of its claims is planned
    }
    assert {key: of_rows[key] for key in needed} == {k: tuple(range(n)) for k, n in needed.items()}
    assert ("2c", "RoIPool max") not in planned_seeds(["2b"], "mini", plan)
    with pytest.raises(ConfigError, match=r"2b .*profile paper"):
        planned_seeds(["2b"], "paper", SeedPlan())


def test_the_example_of_the_documentation():
    """Every number of docs/statistics.md's example."""
    text = " ".join((ROOT / "docs" / "statistics.md").read_text().split())
    seeds, reached = plan_seeds("greater", 1.5, 0.7, image_sd=0.2)
    assert f"needs {seeds} seeds for a power of {100 * reached:.0f} %" in text
    fewer = power("greater", 1.5, 0.7, 3, image_sd=0.2)
    assert f"Three seeds would give {100 * fewer:.0f} %" in text
    values = [1.9, 0.9, 2.1, 1.3]
    assert len(values) == seeds
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert f"mean is {mean:.2f}, their standard deviation {deviation:.2f}" in text
    assert f"standard error over seeds is {deviation / seeds**0.5:.2f}" in text
    low, high = interval_of(values)
    assert f"[{low:+.2f}, {high:+.2f}] from the seeds alone" in text
    both = interval_of(values, 0.25)
    assert f"[{both.low:+.2f}, {both.high:+.2f}] with the test images" in text
    half = half_width(float(deviation), seeds, 0.25)
    assert half == pytest.approx(mean - both.low)
    assert judge("greater", dict(enumerate(values)), Planned(seeds, reached), effect=1.5,
                 image_sd=0.25, stages=(0, 1)).verdict == "confirmed"  # fmt: skip
