"""Benchmarks: what is timed, what the record says, what the page makes of it. Never how fast."""

import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from harness import Benchmark, benchmark, coco_backends
from harness.detectron2_extension import fast_evaluation, find_extension
from harness.exported import installed_runtimes
from harness.page import (
    PLOTS,
    draw_series,
    format_performance_page,
    performance_plots,
)
from harness.record import RECORDS, Series, load_benchmarks, save_benchmark
from mask_rcnn_repro.errors import RecordError


class Clock:
    """Stands for `time`: it moves when a contender says so."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def work(self, seconds, log=None, name=""):
        def function():
            self.now += seconds
            if log is not None:
                log.append(name)
            return name

        return function


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def parsed(*arguments, parts=()):
    about = "Masks.\n\nOf an image.\n\nRun: python x\n\nMore."
    bench = Benchmark("masks", "Masks to RLE", about, parts=parts)
    bench.parse(bench.parser(), arguments)
    return bench


def test_contenders_take_turns_and_the_medians_ratio_counts(clock):
    log = []
    bench = parsed("--repeats", "3")
    contenders = {"stock": clock.work(8, log, "stock"), "ours": clock.work(2, log, "ours")}
    outputs = bench.compare("100", contenders, reference="stock", goal=3)
    assert outputs == {"stock": "stock", "ours": "ours"}
    assert log == ["stock", "ours", *["stock", "ours"] * 3]  # warm-up: a call each
    (comparison,) = bench.finish().comparisons
    assert comparison.ratio("ours") == 4.0
    assert comparison.ratio("stock") == 1.0
    assert comparison.goals == {"ours": 3.0}
    assert comparison.seconds["ours"].repeats == 3


def test_short_work_is_done_several_times_for_one_time(clock):
    log = []
    bench = parsed("--repeats", "2")
    bench.compare("x", {"a": clock.work(0.01, log, "a")}, reference="a")
    assert len(log) == 2 + 2 * 5
    assert bench.finish().comparisons[0].seconds["a"].median == pytest.approx(0.01)


def test_work_of_minutes_is_done_once_without_warm_up(clock):
    log = []
    bench = parsed("--repeats", "5")
    bench.compare("x", {"a": clock.work(99, log, "a")}, reference="a", repeats=1, warmup=False)
    assert log == ["a"]


def test_the_median_and_the_extremes():
    bench = parsed()
    bench.add("x", {"a": [5.0, 1.0, 2.0], "b": [4.0]}, reference="a", memory={"b": 12.0})
    (comparison,) = bench.finish().comparisons
    timing = comparison.seconds["a"]
    assert (timing.median, timing.lowest, timing.highest, timing.repeats) == (2.0, 1.0, 5.0, 3)
    assert comparison.ratio("b") == 0.5


def test_the_same_times_are_shown_beside_another_contender():
    bench = parsed()
    times = {"stock": [8.0], "peer": [3.0], "ours": [2.0], "ours, bf16": [1.0]}
    bench.add("x", times, reference="stock", goals={"ours": 2})
    bench.beside("x", "peer", {"ours": 1.4, "ours, bf16": None})
    _, beside = bench.finish().comparisons
    assert (beside.work, beside.reference) == ("x, beside peer", "peer")
    assert list(beside.seconds) == ["peer", "ours", "ours, bf16"]
    assert (beside.ratio("ours"), beside.ratio("ours, bf16")) == (1.5, 3.0)
    assert beside.goals == {"ours": 1.4}


def test_detectron2s_evaluation_takes_no_part_without_its_sources(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2._C", None)  # as if not compiled
    file, reason = find_extension(None)
    assert not file and "--detectron2-source FOLDER" in reason
    assert fast_evaluation(file) is None
    with pytest.raises(FileNotFoundError, match="git clone"):
        find_extension(str(tmp_path))


def test_contenders_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setattr(coco_backends.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(coco_backends, "COCO_BACKENDS", {})
    assert coco_backends.register_peers() == ([], ["ultrafast-pycocotools", "vernier"])
    found, notes = installed_runtimes()
    assert not found
    assert notes == [
        "OpenVINO takes no part: not installed (pip install openvino onnx).",
        "ONNX Runtime takes no part: not installed (pip install onnxruntime onnx).",
    ]


def test_an_unknown_contender_is_named():
    with pytest.raises(ValueError, match=r"\['stock'\] are no contenders"):
        parsed().add("x", {"a": [1.0]}, reference="stock")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--repeats", "0"], "at least 1"), (["--device", "cuda"], "no CUDA device")],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert message in capsys.readouterr().err


def full_record(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x.py", "--record", "--images", str(tmp_path / "photos")])
    bench = parsed()
    bench.add(
        "100 instances", {"stock": [0.9], "ours": [0.03]}, reference="stock", goals={"ours": 10}
    )
    bench.add("1 instance", {"stock": [1.5], "ours": [1.0]}, reference="stock", goals={"ours": 2})
    bench.equality("100 instances", "identical in 100 of 100")
    bench.series("Cost", "instances", "seconds", {"ours": [(1, 0.1), (10, 1.0)]})
    bench.note("Made-up pictures.")
    return bench.finish()


def test_a_record_is_read_back_as_it_was(monkeypatch, tmp_path):
    record = full_record(monkeypatch, tmp_path)
    assert record.command == "python benchmarks/masks.py --record --images photos"
    assert record.about == "Masks.\n\nOf an image."
    file = save_benchmark(record, tmp_path / "records")
    assert file.name == "masks.json"
    assert load_benchmarks(tmp_path / "records") == [record]
    assert load_benchmarks(tmp_path / "nothing") == []


def test_records_are_written_on_demand_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "config_root", lambda: tmp_path / "configs")
    parsed().finish()
    assert not (tmp_path / RECORDS).exists()
    parsed("--record").finish()
    assert [f.name for f in (tmp_path / RECORDS).iterdir()] == ["masks.json"]


def measure_parts(bench, seconds):
    for part in bench.parts():
        if part != "bf16":  # as on a CPU without it
            bench.add(f"{part}, 1 image", {"stock": [3.0], "ours": [seconds]}, reference="stock")
            bench.note(f"Made up for {part}.")


def test_parts_are_recorded_by_themselves(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "config_root", lambda: tmp_path / "configs")
    monkeypatch.setattr(sys, "argv", ["x.py", "--record"])
    bench = parsed("--record", parts=("fp32", "bf16", "others"))
    measure_parts(bench, 1.0)
    assert len(bench.finish().comparisons) == 2
    names = ["masks-fp32.json", "masks-others.json"]
    assert sorted(f.name for f in (tmp_path / RECORDS).iterdir()) == names
    monkeypatch.setattr(sys, "argv", ["x.py", "--record", "--only", "others"])
    measure_parts(parsed("--record", "--only", "others", parts=("fp32", "bf16", "others")), 2.0)
    fp32, others = load_benchmarks(tmp_path / RECORDS)
    assert [c.work for c in others.comparisons] == ["others, 1 image"]
    assert (fp32.comparisons[0].ratio("ours"), others.comparisons[0].ratio("ours")) == (3.0, 1.5)
    assert (fp32.part, others.part, others.notes) == ("fp32", "others", ["Made up for others."])
    page = format_performance_page([fp32, others])
    assert page.count("## Masks to RLE") == 1 and page.count("| work | contender |") == 2
    first, second = page.index("fp32, 1 image"), page.index("others, 1 image")
    commands = [page.index(f"`{record.command}`") for record in (fp32, others)]
    assert first < commands[0] < second < commands[1], "each table with where it is from"
    page = format_performance_page([fp32, others.model_copy(update={"command": fp32.command})])
    assert page.count("| work | contender |") == 1 and page.count(fp32.command) == 1


def test_an_interrupted_benchmark_keeps_finished_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "config_root", lambda: tmp_path / "configs")
    bench = parsed("--record", parts=("fp32", "others"))
    parts = bench.parts()
    bench.add(next(parts), {"ours": [1.0]}, reference="ours")
    bench.add(next(parts), {"ours": [2.0]}, reference="ours")
    parts.close()  # such as by Ctrl-C
    assert [f.name for f in (tmp_path / RECORDS).iterdir()] == ["masks-fp32.json"]


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("--only", "fp16", parts=("fp32", "bf16"))
    assert "choose from" in capsys.readouterr().err


def test_times_of_each_round_and_versions_of_peers(monkeypatch, clock):
    bench = parsed("--repeats", "2")
    bench.compare("x", {"OpenVINO, bf16": clock.work(2), "ours": clock.work(1)}, reference="ours")
    assert bench.times("x") == {"OpenVINO, bf16": [2.0, 2.0], "ours": [1.0, 1.0]}
    versions = {"openvino": "2026.4", "onnxruntime": "1.32", "numba": None}
    record = bench.finish().model_copy(update={"libraries": versions})
    page = format_performance_page([record])
    assert "openvino 2026.4" in page and "onnxruntime" not in page


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "masks-cuda.json").write_text('{"name": "masks"}')
    with pytest.raises(RecordError, match=r"(?s)masks-cuda\.json.*benchmarks/masks\.py --record"):
        load_benchmarks(tmp_path)


def test_the_page_says_what_was_reached_and_what_not(monkeypatch, tmp_path):
    record = full_record(monkeypatch, tmp_path)
    page = format_performance_page([record])
    assert "[Masks to RLE](#masks-to-rle): 100 instances | - | stock | 30.0 | 10 | yes" in page
    assert "[Masks to RLE](#masks-to-rle): 1 instance | - | stock | 1.50 | 2 | no" in page
    assert "| 100 instances | stock | 900 ms | 1 |  | identical in 100 of 100 |" in page
    assert "|  | ours | 30.0 ms | **30.0** | 10 |  |" in page
    assert "| 1 instance | stock | 1.50 s | 1 |  |  |" in page
    assert "- Made-up pictures." in page
    assert "![Cost](performance/masks-1.svg)" in page
    assert list(performance_plots([record])) == [PLOTS / "masks-1.svg"]
    assert "Not run." in format_performance_page([])


def test_a_plot_is_the_same_each_time_and_shows_its_words():
    series = Series(
        title="Cost", x_label="images", y_label="seconds", lines={"ours": [(1, 1), (10, 9)]}
    )
    text = draw_series(series)
    time.sleep(0.01)
    assert draw_series(series) == text
    words = [e.text for e in ElementTree.fromstring(text).iter() if e.tag.endswith("text")]
    assert {"Cost", "images", "seconds", "ours", "in proportion"} <= set(words)


def test_a_plot_with_zeros_has_plain_axes():
    series = Series(title="Cost", x_label="x", y_label="y", lines={"ours": [(0, 1), (10, 9)]})
    assert "in proportion" not in draw_series(series)
