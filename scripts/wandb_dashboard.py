"""Build the W&B workspace that shows runs of dmm_exp: KLoM beside its floor, cost, ToW, attacks, audits, a leaderboard.

python scripts/wandb_dashboard.py --entity ENTITY --project dmm_exp
python scripts/wandb_dashboard.py --entity ENTITY --project dmm_exp --dry-run    # its specification as JSON, no server
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

try:
    import wandb
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr
except ImportError:
    print(
        "error: this script needs wandb-workspaces, which cannot be imported; pip install wandb-workspaces",
        file=sys.stderr,
    )
    sys.exit(2)

GROUPS = {"forget": "forget points", "retain": "retain points", "val": "validation points"}
PROBES = {"relearn": "further training", "relearn_shown": "training on a fifth of the rows", "perturb": "noise",
          "int8": "rounding to int8", "bfloat16": "rounding to bfloat16"}  # fmt: skip
WORK = ("originals", "oracles", "floor oracles", "unlearning")
UNLEARNER, FORGET = "choices.unlearner", "choices.forget"
FIGURES = ("klom_by_group", "margin_histograms", "quality_against_cost", "klom_against_memorization")


def workspace(entity: str, project: str, name: str = "dmm_exp") -> ws.Workspace:
    """Return the workspace: runs grouped by forget set and unlearner, best P95 KLoM of forget points first."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_klom(), _cost(), _tow(), _leaderboard(), _attacks(), _audits(), _work(), _details()],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config(FORGET), expr.Config(UNLEARNER)],
            filters=expr.And(expr.Metric("JobType") == "evaluate"),  # others hold the progress of long work
            order=[expr.Ordering(expr.Summary("klom/forget/p95"), ascending=True)],
            pinned_columns=["run:displayName", *(f"summary:{metric}" for metric in _headline())],
        ),
    )


def specification(made: ws.Workspace) -> dict[str, Any]:
    """Return what the server would be sent, as plain containers; building it checks it."""
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def _headline() -> list[str]:
    return [*(f"klom/{group}/p95" for group in GROUPS), "klom_sum/forget/p95", "tow", "tow_mia", "cost/ratio"]


def _klom() -> ws.Section:
    """A panel a group of points: the method's P95 KLoM between its floor and doing nothing."""
    kinds = (("klom", ""), ("klom_sum", " in both directions"))
    return _section("KLoM by group, with its floor", [_bars(
        f"P95 KLoM{both}, {words}: unlearned, floor, doing nothing",
        [f"{name}{end}/{group}/p95" for end in ("", "_floor", "_original")],
    ) for name, both in kinds for group, words in GROUPS.items()])  # fmt: skip


def _cost() -> ws.Section:
    """Points below and to the left are better."""
    return _section("Quality against cost", [wr.ScatterPlot(
        title=f"P95 KLoM of {words} against cost (multiples of one retraining)",
        x=wr.SummaryMetric("cost/ratio"), y=wr.SummaryMetric(f"klom/{group}/p95"),
    ) for group, words in GROUPS.items()])  # fmt: skip


def _tow() -> ws.Section:
    return _section("ToW", [
        _bars("ToW (1 is retraining), floor", ["tow", "tow_floor"]),
        _bars("ToW-MIA (1 is retraining), floor", ["tow_mia", "tow_mia_floor"]),
        _bars("Accuracy on forget points: unlearned, retrained",
              ["accuracy/unlearned/forget", "accuracy/oracle/forget"]),
    ])  # fmt: skip


def _attacks() -> ws.Section:
    """What attacks find, beside their floor, and what methods promise where they have a certificate."""
    return _section("Attacks and certificates", [
        _bars("U-LiRA: accuracy (.5 is guessing), floor", ["ulira/accuracy", "ulira_floor/accuracy"]),
        _bars("ε that an attack shows, floor", ["competition/epsilon", "competition/epsilon_floor"]),
        _bars("Certified ε (of methods that have one)", ["certified/epsilon"]),
    ])  # fmt: skip


def _audits() -> ws.Section:
    """Does it come back? For runs with evaluation/audits=all."""
    return _section("Audits (evaluation/audits=all)", [
        _bars(f"After {words}: KLoM of forget points, floor",
              [f"audit/{probe}/klom/forget/p95", f"audit/{probe}/klom_floor/forget/p95"])
        for probe, words in PROBES.items()
    ], is_open=False)  # fmt: skip


def _work() -> ws.Section:
    """How far long work is: runs of job types pool, train and unlearn. Remove the filter of runs to see them."""
    panels = [wr.LinePlot(title=f"Members done: {stage}", y=[f"members/{stage}"]) for stage in WORK]
    return _section("Work in progress (job types pool, train, unlearn)", panels, is_open=False)


def _leaderboard() -> ws.Section:
    """Means over forget sets and seeds, and every run with all of its headline numbers."""
    columns = [wr.Config(FORGET), wr.Config(UNLEARNER), *map(wr.SummaryMetric, _headline())]
    return _section("Leaderboard", [
        _bars("Mean P95 KLoM by unlearner", [f"klom/{group}/p95" for group in GROUPS]),
        wr.BarPlot(
            title="Mean P95 KLoM of forget points by forget set", metrics=["klom/forget/p95"],
            groupby=wr.Config(FORGET), groupby_aggfunc="mean", groupby_rangefunc="stderr",
        ),
        wr.ParallelCoordinatesPlot(
            title="All runs", columns=[wr.ParallelCoordinatesPlotColumn(metric=column) for column in columns]
        ),
    ])  # fmt: skip


def _details() -> ws.Section:
    curves = [wr.LinePlot(title=f"Loss of {stage}", x=f"epoch/{stage}", y=[f"loss/{stage}"], log_y=True)
              for stage in ("originals", "unlearning")]  # fmt: skip
    pictures = wr.MediaBrowser(
        title="Figures (logger.figures=true)", media_keys=[f"figures/{name}" for name in FIGURES], num_columns=2
    )
    return _section("Training and figures", [*curves, pictures], is_open=False)


def _bars(title: str, metrics: list[str]) -> wr.BarPlot:
    """Return bars of one or more metrics: a bar an unlearner, the mean over its runs with a standard error."""
    return wr.BarPlot(title=title, metrics=metrics, groupby=wr.Config(UNLEARNER), groupby_aggfunc="mean",
                      groupby_rangefunc="stderr")  # fmt: skip


def _section(name: str, panels: list[Any], is_open: bool = True) -> ws.Section:
    for place, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (place % 3), y=6 * (place // 3), w=8, h=6)
    return ws.Section(name=name, panels=panels, is_open=is_open)


def main(arguments: list[str] | None = None) -> int:
    """Save the workspace, or print its specification; 2 when the server refuses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", required=True, help="project of the runs")
    parser.add_argument("--name", default="dmm_exp", help="of the workspace (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the specification as JSON; needs no server")
    asked = parser.parse_args(arguments)
    made = workspace(asked.entity, asked.project, asked.name)
    if asked.dry_run:
        print(json.dumps(specification(made), indent=2))
        return 0
    try:
        print(made.save().url)
    except (wandb.errors.Error, ValueError, OSError) as error:
        print(f"error: W&B did not take the workspace ({str(error).strip() or type(error).__name__})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
