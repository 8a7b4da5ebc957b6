"""The claims are decided by arithmetic that can be checked."""

import zlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from s4bt.files import ROOT
from s4bt.study.claims import (
    claim1,
    decided,
    differences,
    fewer_parameters,
    holm,
    interval,
)
from s4bt.study.inheritance import inheritance
from s4bt.study.smallest import predictors, smallest_ranks
from s4bt.tasks import TASKS as ALL
from tools import readme, report, tables

TASKS = ("a", "b", "c", "d", "e", "f")


def test_holm_is_the_step_down_procedure():
    # the example of Holm 1979 in every textbook: 0.01, 0.04, 0.03, 0.005
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = interval([rng.normal(size=30)], 500)
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.98


@pytest.mark.parametrize("seeds, tasks, cover", [(3, 1, 0.74), (5, 1, 0.90), (3, 6, 0.98)])
def test_the_interval_of_few_seeds_covers_what_is_said(seeds, tasks, cover):
    rng, inside = np.random.default_rng(1), 0
    for _ in range(400):
        low, high = interval(
            [rng.normal() * (tasks > 1) + rng.normal(size=seeds) for _ in range(tasks)], 1000
        )
        inside += low <= 0 <= high
    assert inside / 400 == pytest.approx(cover, abs=0.05)


def test_one_value_has_no_interval():
    assert np.isnan(interval([np.ones(1)])).all()


def test_tasks_that_differ_widen_the_hierarchical_interval():
    rng = np.random.default_rng(0)
    alike = [rng.normal(size=5) for _ in range(6)]
    apart = [x + 5 * k for k, x in enumerate(alike)]
    width = [np.ptp(interval(groups)) for groups in (alike, apart)]
    # six means 0, 5, .. 25 drawn anew: sd 8.5 / sqrt(6), times 2 t of five degrees of freedom
    t = 2.571 * (6 / 5) ** 0.5
    assert width[1] == pytest.approx(2 * t * np.std(5 * np.arange(6)) / 6**0.5, rel=0.15)
    assert width[0] < width[1] / 4


def runs(gain, arm="truncated", **fields):
    rng = np.random.default_rng(zlib.crc32(repr((gain, arm, fields)).encode()))
    return pd.DataFrame(
        [
            {"task": t, "seed": s, "arm": arm, "accuracy": 0.5 + 0.01 * s + gain} | fields
            for t in TASKS
            for s in range(5)
        ]
    ).assign(accuracy=lambda x: x.accuracy + 0.001 * rng.normal(size=len(x)))


def test_differences_are_paired_by_seed():
    ours, theirs = runs(0.02), runs(0.0).sample(frac=1, random_state=0)
    pairs = differences(ours, theirs)
    assert len(pairs) == 30 and pairs.difference.std() < 0.003  # seeds differ by 0.01
    rows = pd.DataFrame(decided(pairs)).set_index("task")
    a = pairs[pairs.task == "a"].difference
    assert rows.p["a"] == pytest.approx(stats.ttest_rel(*pair_of("a", ours, theirs)).pvalue)
    assert rows.loc["a", "mean"] == pytest.approx(a.mean()) and rows.wins["all"] == 6
    assert rows.low["a"] < a.mean() < rows.high["a"]


def test_p_here_asks_about_these_tasks_alone():
    rng, frames = np.random.default_rng(0), []
    level = [0.05, -0.03, 0.04, -0.02, 0.06, -0.04]  # tasks differ, and their mean is 0.01
    for task, mean in zip(TASKS, level):
        seeds = pd.DataFrame({"task": task, "seed": range(5)})
        frames.append(seeds.assign(difference=mean + 0.004 * rng.normal(size=5)))
    row = pd.DataFrame(decided(pd.concat(frames))).set_index("task").loc["all"]
    assert row.p > 0.3 and row.p_here < 1e-4
    # with tasks of equal variance and size it is the t test of a one-way analysis of variance
    x = np.array([[1.0, 2, 3], [2, 3, 4]])
    two = pd.DataFrame({"task": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2})
    row = pd.DataFrame(decided(two.assign(difference=x.ravel()))).set_index("task").loc["all"]
    t = x.mean() / np.sqrt(x.var(1, ddof=1).mean() / x.size)
    assert row.p_here == pytest.approx(2 * stats.t.sf(t, 4))


def pair_of(task, *frames):
    return [f[f.task == task].sort_values("seed").accuracy for f in frames]


def table():
    tied = {"sharing": "tied"}
    frames = [runs(0.0, "skew-hippo", rank=r, parameters=100 * r, **tied) for r in (2, 4)]
    own = {"transfer": "dss", **tied}
    for method, gain in (("good", 0.03), ("same", 0.0), ("worse", -0.03)):
        frames += [runs(gain, method=method, rank=r, parameters=100 * r, **own) for r in (2, 4)]
    return pd.concat(frames, ignore_index=True)


def test_claim_one_holds_fails_or_stays_open():
    found = claim1(table()).query("task == 'all'").set_index(["method", "rank"])
    assert found.verdict.to_dict() == {
        (m, r): v
        for m, v in (("good", "holds"), ("same", "undecided"), ("worse", "fails"))
        for r in (2, 4)
    }
    assert (found.holm >= found.p).all()


def test_whole_networks_are_compared_with_what_was_pretrained_or_had_the_steps():
    tied = {"sharing": "tied", "rank": 4, "parameters": 400}
    arms = ("skew-hippo", "skew-hippo-rest", "skew-hippo-long")
    frames = [runs(0.01 * k, arm, **tied) for k, arm in enumerate(arms)]
    frames.append(runs(0.05, method="m", transfer="whole", **tied | {"parameters": 200}))
    rows = pd.concat(frames, ignore_index=True)
    found = claim1(rows).query("task == 'all'").set_index("against")
    assert list(found.index) == list(arms[1:]) and (found.verdict == "holds").all()
    assert found.loc["skew-hippo-rest", "mean"] == pytest.approx(0.04, abs=0.002)
    smaller = fewer_parameters(rows).query("task == 'all' and transfer == 'whole'")
    assert len(smaller) == 1 and smaller["mean"].iloc[0] == pytest.approx(0.03, abs=0.002)


def test_the_smallest_better_model_is_found():
    found = fewer_parameters(table()).query("transfer == 'dss' and task == 'all'")
    found = found.set_index("rank")
    assert found.method[4] == "good" and found.small_rank[4] == 2
    assert found.small_parameters[4] == 200 < found.parameters[4]
    assert pd.isna(found.method[2]) and found.compared[2] == 0


def test_a_model_that_is_better_on_one_task_is_better_in_the_mean_here_and_not_beyond():
    rows = table()
    better = (rows.method == "same") & (rows.task == "b")
    rows = rows[(rows.method != "good")].assign(accuracy=rows.accuracy + 0.1 * better)
    found = fewer_parameters(rows).query("transfer == 'dss' and rank == 4").set_index("task")
    assert found.method["b"] == "same" and found.small_rank["b"] == 2
    assert found.method["all"] == "same" and found.compared["all"] == 2
    # of five tasks without a difference, at 5 %
    assert found.method.drop(["b", "all"]).notna().sum() <= 1
    mean = claim1(rows).query("task == 'all' and method == 'same'")
    assert (mean.verdict_here == "holds").all() and (mean.verdict == "undecided").all()


def test_inheritance_is_found_where_it_is_and_nowhere_else():
    rng = np.random.default_rng(0)
    original = rng.uniform(size=(6, 20))
    level = 3 * np.arange(6)[:, None]
    heir = level + 0.5 * original + 0.05 * rng.normal(size=original.shape)
    start = level + rng.normal(size=original.shape)
    base = {"task": np.repeat(TASKS, 20), "seed": np.tile(np.arange(20), 6)}
    base["original"] = (level + original).ravel()
    rows = pd.DataFrame(base | {"accuracy": heir.ravel(), "start": start.ravel()})
    found = inheritance(rows, 300).set_index("task")
    assert found.verdict["all"] == "holds" and found.slope["all"] == pytest.approx(0.5, abs=0.05)
    assert found.low["all"] < found.pearson["all"] < found.high["all"]
    strangers = rows.assign(accuracy=(level + rng.normal(size=original.shape)).ravel())
    found = inheritance(strangers, 300).set_index("task")
    # over all tasks together the levels correlate; within them nothing does
    assert np.corrcoef(strangers.original, strangers.accuracy)[0, 1] > 0.9
    assert found.verdict["all"] == "undecided" and abs(found.pearson["all"]) < 0.25


def test_originals_of_one_seed_count_as_one():
    rng = np.random.default_rng(2)
    lucky = rng.normal(size=(4, 3)).repeat(5, 1).ravel()  # seeds that are good, and so are heirs
    noise = rng.normal(size=(2, 60))
    frame = pd.DataFrame(
        {
            "task": np.repeat(TASKS[:4], 15),
            "seed": np.tile(np.arange(3).repeat(5), 4),
            "original": lucky + 0.1 * noise[0],
            "accuracy": lucky + 0.1 * noise[1],
            "start": rng.normal(size=60),
        }
    )
    found = inheritance(frame, 500).set_index("task").loc["all"]
    assert found.pearson > 0.9 and found.p > 0.05  # within a seed nothing is inherited


def test_what_only_the_start_explains_has_no_partial_correlation():
    rng = np.random.default_rng(1)
    start = rng.normal(size=(6, 40))
    frame = pd.DataFrame(
        {
            "task": np.repeat(TASKS, 40),
            "seed": np.tile(np.arange(40), 6),
            "start": start.ravel(),
            "original": (start + 0.3 * rng.normal(size=start.shape)).ravel(),
            "accuracy": (start + 0.3 * rng.normal(size=start.shape)).ravel(),
        }
    )
    found = inheritance(frame, 100).set_index("task").loc["all"]
    assert found.pearson > 0.85 and abs(found.partial) < 0.2


def test_the_smallest_rank_without_a_loss_is_found():
    frames = [runs(0.0, "pretrained", rank=64), runs(0.0, "untruncated", rank=64)]
    for rank, gain in ((2, -0.1), (4, 0.0), (8, -0.05), (16, 0.0), (32, 0.001)):
        frames += [runs(gain, "one-shot", method="m", rank=rank)]
        frames += [runs(0.0, method="m", transfer="whole", rank=rank)]
    found = smallest_ranks(pd.concat(frames, ignore_index=True)).set_index(["arm", "task"])
    assert len(found) == 14
    # 4 is as good, but 8 is not
    assert (found.loc["one-shot"].equal == 16).all() and found.pruned["one-shot", "all"] == 0.75
    assert (found.loc["truncated"].equal == 2).all()
    bad = pd.concat([frames[0], runs(-0.2, "one-shot", method="m", rank=32)], ignore_index=True)
    assert smallest_ranks(bad).equal.isna().all()


def test_what_predicts_the_loss_is_told_from_what_does_not():
    rng = np.random.default_rng(0)
    rows, layers = [runs(0.0, "pretrained", rank=64)], []
    for rank in (2, 4, 8, 16):
        rows.append(runs(-0.3 / rank, "one-shot", method="m", rank=rank))
        for number in (0, 1):
            layer = rows[-1][["task", "seed"]].assign(method="m", rank=rank, layer=number)
            fixed = {"sigma_max": 1.0, "gain": 1.0, "h2_error": 0.5, "bound": 1.0 / rank}
            noise = {name: rng.uniform(size=len(layer)) for name in ("limit", "hinf")}
            layers.append(layer.assign(**fixed, **noise, output_error=1.0 / rank - 0.1 * number))
    found = predictors(pd.concat(rows), pd.concat(layers)).iloc[0]
    assert found["bound over the largest value"] > 0.9 and found["output error"] > 0.9
    assert abs(found["first discarded over the largest"]) < 0.35 and np.isnan(found["H2 error"])


def test_where_all_models_are_equal_nothing_is_said():
    frame = pd.DataFrame(
        {
            "task": ["a"] * 4 + ["b"] * 4,
            "seed": [0, 1] * 4,
            "original": [0.5] * 4 + [0.1, 0.2, 0.3, 0.4],
            "start": [0.5] * 4 + [0.1, 0.3, 0.2, 0.4],
            "accuracy": [0.4, 0.5, 0.4, 0.5] + [0.2] * 4,
        }
    )
    found = inheritance(frame, 50).set_index("task")
    assert found.loc[["a", "b"], "pearson"].isna().all()
    assert (found.verdict == "undecided").all() and (found.p <= 1).all()


@pytest.mark.parametrize("tasks", [["image"], ["text", "image"], list(ALL)])
def test_the_report_is_whole_for_one_task_and_for_all(monkeypatch, tasks):
    monkeypatch.setattr(report, "SCALE", "laptop")
    monkeypatch.setattr(report, "TASKS", tasks)
    parts = {name: make() for name, make in tables.BLOCKS["docs/report.md"].items()}
    assert not [name for name, text in parts.items() if "nan" in text]
    assert parts["report-claim1"].count("(") > 10 and "`weighted`" in parts["report-oneshot"]
    assert "DSS only" in parts["report-fewer"] and "one shot" in parts["report-smallest"]
    few = len(tasks) < report.MANY
    assert ("over all tasks" in parts["report-fewer"]) != few
    for name in ("report-claim1", "report-parts"):
        assert all((task in parts[name]) == few for task in tasks)
        assert ("mean over" in parts[name]) != few


def test_what_the_readme_says_of_the_first_claim():
    found = pd.read_csv(ROOT / "results" / "laptop" / "claim1.csv")
    own = found[(found.method == "bt-shared") & (found["transfer"] == "dss")]
    mean = own[own.task == "all"]
    assert (mean.verdict_here == "holds").all() and (mean.verdict == "undecided").all()
    assert (own[own.task == "retrieval"]["mean"] < 0).all()


def test_the_readme_says_which_verdicts_the_second_claim_has(monkeypatch):
    second = pd.DataFrame(
        {"task": ["all", "all", "image"], "pearson": [-0.1, 0.9, 0.99]}
        | {"verdict": ["undecided", "holds", "holds"]}
    )
    monkeypatch.setattr(readme, "SCALE", "study")
    own = readme.read
    monkeypatch.setattr(readme, "read", lambda name: second if "claim2" in name else own(name))
    last = readme.verdicts().splitlines()[-1]
    assert "correlation −0.10 to 0.90 within tasks" in last
    assert "undecided in 1 of 2, holds in 1 of 2" in last
