"""What ``benchmarks/training.py`` makes of its contenders' figures, and small runs of them."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REQUIRED = {
    "pairs_per_second_ratio",
    "pairs_per_second_ratio_released",
    "peak_memory_ratio",
    "peak_memory_ratio_released",
}


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module; nothing of it stays behind."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import training

    yield training
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("training", "trainers"):
            del sys.modules[name]


def ran(name: str, kind: str, pairs: float, memory: float) -> dict:
    speeds = {"pairs_per_second": pairs, "pairs_per_cpu_second": pairs / 2}
    sizes = {"peak_memory": memory, "peak_rss": memory + 1e9, "preparation_seconds": 1.0}
    return {"name": name, "kind": kind, **speeds, **sizes, "losses": [0.75, 0.5]}


FIGURES = {"ours": (4.0, 1e9), "trl_dpo": (2.0, 4e9), "released": (1.0, 5e9)}


def test_ratios_are_of_one_setting_of_ours(benchmark):
    results = [
        {"name": "ours, large", "kind": "ours", "failed": "out of memory"},
        ran("ours, slow", "ours", 3.0, 1e9),
        ran("ours, fast", "ours", 4.1, 3e9),
        ran("ours, as fast and leaner", "ours", 4.0, 2e9),
        ran("TRL, fast", "trl_dpo", 2.0, 4e9),
        ran("TRL, lean", "trl_dpo", 1.0, 3e9),
        {"name": "released", "kind": "released", "failed": "out of memory"},
    ]
    found = benchmark.ratios(results)
    assert REQUIRED <= set(found)
    assert found["pairs_per_second_ratio"] == 2.0, "of the leanest that does twice TRL's"
    assert found["peak_memory_ratio"] == 0.5, "of the same; TRL's leaner one is too slow"
    assert found["fastest_pairs_per_second_ratio"] == 2.05
    assert found["loss_difference_released"] is None
    assert found["leanest_memory_ratio"] == pytest.approx(1 / 3)
    assert found["pairs_per_second_ratio_released"] is None
    assert "pairs_per_second_ratio_unmasked" not in found, "nobody was to run"
    assert benchmark.failures(results) == {
        "ours, large": "out of memory", "released": "out of memory"
    }  # fmt: skip
    other = {**found, "pairs_per_second_ratio": 3.0, "peak_memory_ratio": 0.6}
    least = benchmark.worst([found, other, {"peak_memory_ratio_unmasked": 0.7}])
    assert least["pairs_per_second_ratio"] == 2.0 and least["peak_memory_ratio"] == 0.6
    assert least["peak_memory_ratio_released"] is None
    assert least["peak_memory_ratio_unmasked"] == 0.7


def test_where_none_of_ours_is_twice_as_fast_the_fastest_is_compared(benchmark):
    results = [
        ran("ours, lean", "ours", 3.0, 1e9),
        ran("ours, fast", "ours", 3.9, 3e9),
        ran("TRL", "trl_dpo", 2.0, 4e9),
    ]
    assert benchmark.setting_of_ours(results)["name"] == "ours, fast"
    assert benchmark.ratios(results)["peak_memory_ratio"] == 0.75
    assert benchmark.setting_of_ours(results[:2])["name"] == "ours, fast", "without TRL, too"
    assert benchmark.setting_of_ours(results[2:]) is None


def test_losses_that_must_be_the_same_are_compared(benchmark):
    found = benchmark.ratios(
        [
            ran("ours", "ours", 2.0, 1e9),
            ran("ours without mask", "unmasked", 1.5, 1e9) | {"losses": [0.8, 0.4]},
            ran("released", "released", 1.0, 1e9) | {"losses": [0.75, 0.4, 0.3]},
            ran("TRL", "trl_dpo", 1.0, 2e9) | {"losses": [0.8, 0.4]},
        ]
    )
    assert found["loss_difference_released"] == pytest.approx(0.25)
    assert found["loss_difference_trl"] == 0
    assert (found["pairs_per_second_ratio"], found["pairs_per_second_ratio_unmasked"]) == (2, 1.5)
    other = {**found, "loss_difference_released": 0.1}
    assert benchmark.worst([found, other])["loss_difference_released"] == pytest.approx(0.25)


def test_the_quick_run_ends_with_the_required_ratios(benchmark, monkeypatch):
    def measure(contenders, setting, rounds):
        return [
            ran(each.name, each.kind or each.script, *FIGURES[each.script]) for each in contenders
        ]

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "write_model", lambda *_: 26_000_000)
    for result in (benchmark.quick(), benchmark.full()):
        assert {key: result[key] for key in REQUIRED} == {
            "pairs_per_second_ratio": 2.0,
            "pairs_per_second_ratio_released": 4.0,
            "peak_memory_ratio": 0.25,
            "peak_memory_ratio_released": 0.2,
        }
    for found in benchmark.quick()["by_vocabulary"].values():
        assert found["failed"] == {}


def test_on_a_gpu_what_fails_is_reported(benchmark, monkeypatch, capsys):
    """A card that no data sheet here knows, on which nothing of ours runs."""
    from trainers.card import Card

    cards = {benchmark.find_card: Card("NVIDIA Z1", 85 * 10**9)}
    shapes = []

    def apart(work, *arguments):
        shapes.extend(arguments[1:2])
        return cards.get(work)

    def measure(contenders, setting, rounds):
        assert (setting.device, setting.dtype) == ("cuda", "bfloat16")
        return [
            {"name": each.name, "kind": each.script, "failed": "out of memory"}
            if each.script == "ours"
            else ran(each.name, each.script, 1.0, 1e9)
            for each in contenders
        ]

    monkeypatch.setattr(benchmark, "apart", apart)
    monkeypatch.setattr(benchmark, "measure", measure)
    result = json.loads(json.dumps(benchmark.gpu(tiny=False, layers=None), allow_nan=False))
    assert result["mfu"] is None and result["pairs_per_second_ratio"] is None
    assert result["device"] == "NVIDIA Z1"
    assert len(result["failed"]) >= 3
    assert shapes[0]["num_hidden_layers"] == 8
    assert "does not run: out of memory" in capsys.readouterr().out


def test_without_a_gpu_only_the_tiny_size_runs(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "apart", lambda *_: None)
    with pytest.raises(SystemExit, match="--tiny"):
        benchmark.gpu(tiny=False, layers=None)
    measured = []

    def measure(contenders, setting, rounds):
        measured.append(setting.device)
        return [
            ran(each.name, each.kind or each.script, *FIGURES[each.script]) for each in contenders
        ]

    monkeypatch.setattr(benchmark, "measure", measure)
    result = benchmark.gpu(tiny=True, layers=None)
    assert measured == ["cpu"] and result["device"] == "cpu" and result["mfu"] > 0
    assert result["pairs_per_second_ratio"] == 2.0


def test_the_run_for_gpus_ends_with_its_figures_at_a_tiny_size(benchmark, monkeypatch, capsys):
    """In bfloat16, for real: ours and the released method; TRL would need other packages."""
    choose, pick = benchmark.for_gpu, benchmark.pick_rows
    of = ["ours", "released"]
    monkeypatch.setattr(benchmark, "pick_rows", lambda _, vocabulary: pick(2, vocabulary))
    monkeypatch.setattr(
        benchmark, "for_gpu",
        lambda *given: [next(each for each in choose(*given) if each.script == script)
                        for script in of],
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["training.py", "--gpu", "--tiny"])
    benchmark.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["failed"] == {} and result["device"] == "cpu"
    assert result["mfu"] > 0 and result["pairs_per_second_ratio_released"] > 0
    assert result["loss_difference_released"] < 0.02


def test_contenders_run_and_ours_learns_what_the_released_method_does(benchmark, tmp_path):
    benchmark.write_model(tmp_path, benchmark.TINY, 1024, "float32")
    setting = benchmark.Setting(tmp_path, benchmark.pick_rows(4, 1024), 3)
    results = benchmark.measure([benchmark.ours(512), benchmark.released(2)], setting, rounds=1)
    assert benchmark.failures(results) == {}
    assert benchmark.ratios(results)["loss_difference_released"] < 1e-4
    assert results[0]["losses"][0] == pytest.approx(0.6931472, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_is_that_of_the_very_card(benchmark, name, teraflops):
    from trainers.card import Card

    assert Card(name, 1).peak == (teraflops and teraflops * 1e12)


def test_layers_leave_room_for_activations(benchmark):
    from trainers.card import Card

    parameters = 0.218e9 * Card("A100", 85 * 10**9).layers + 1.05e9
    assert 20 * parameters < 0.75 * 85e9
    assert Card("small", 10**10).layers == 1 and Card("vast", 10**12).layers == 32


def test_either_side_gets_the_kernels_that_are_installed(benchmark):
    plain = benchmark.for_gpu(16384, set())
    every = benchmark.for_gpu(16384, {"flash_attn", "liger_kernel"})
    assert len({each.name for each in every}) == len(every) > len(plain)
    for script in ("ours", "trl_dpo"):
        options = [each.options for each in every if each.script == script]
        assert any(each.get("attention") == "flash_attention_2" for each in options)
        assert any(each.get("gradient_checkpointing") for each in options)
    assert any(each.options.get("use_liger_kernel") for each in every)
    assert all("attention" not in each.options for each in plain)
