"""docs/results.md from the tables that `--record` leaves in results:  python docs/make_results.py"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aib.interpret.intervals import mean_interval
from aib.paper.counting import changes
from aib.paper.scores import compare_scores, read_scores
from aib.paper.tables import PaperTable, compare_runs, read_runs
from aib.report.plots import sweep_plot

ROOT = Path(__file__).resolve().parent.parent
RUNS, SCORES = (ROOT / "results" / name for name in ("runs.csv", "scores.csv"))
RECIPE, FAST, CURVE = "cifar10/narrow_aib_qt", "cifar10/fast", "clutter/vgg_s_aib_qt"
PICTURE = "images/rate_curve.png"

HEAD = """What two cores of a CPU can say about the paper's comparisons: its networks at an eighth of their width, four epochs of
CIFAR-10, one recipe for all. Every run is a row of [results](../results), with its seed, command, hardware, versions and
commit; this page is written by `python docs/make_results.py`. The paper's own tables, at full width and 200 epochs, wait for a
GPU: `aib table 1` sets what has been run beside the published values."""

ERRORS = """The error on the 10,000 test images of CIFAR-10 after the last epoch: every model on one recipe; the attentive ones also
with beta = 0, which leaves map and noise but takes the cost off the bits, and with the rate term of the published code
(`kl=reference`) instead of the paper's."""

HUNDRED = """The same recipe on CIFAR-100, beside `vgg_att3`:"""

PAIRS = """What the pieces of AIB change, each beside the network without that change, paired over the same three seeds:"""

ERRORS_SAY = """At this width and budget, no and no. What costs accuracy is the latent bottleneck, not the map: `vgg_dvib`, with the
bottleneck and without attention, loses as much against `vgg` as `vgg_aib` does. Without the cost of bits (beta = 0) the attentive
networks are about a point better, which three seeds do not settle, and no longer told apart from `vgg`. Anchors make no difference
that could be seen: it may be up to 1.7 points either way. The rate term of the published code hardly costs bits: nearly all that a
network keeps at beta = 0 remain, and of the accuracy `vgg_aib` keeps a point more than with the paper's term, which leaves a
twentieth of the bits. `vgg_att3`, whose attention pools three levels of features for the decision, is the one that is
better than `vgg`. The wide residual networks, at a tenth of their width and of one seed each, point the same way and prove nothing.
What this does not show: wider networks, longer trainings, other data or other values of beta; rows of one seed have no interval."""

HUNDRED_SAYS = """The same order, further apart: of a hundred classes the networks with a latent learn 12 points less in four epochs
than `vgg_att3`, which has none. What this does not show: whether that is the latent's price or the attention's, and whether longer
trainings keep it."""

MADE = """Made with `aib sweep --recipe cifar10/narrow_aib_qt --record results/runs.csv --vary
model=vgg,vgg_aib,vgg_aib_qt,vgg_att3,vgg_dvib`, and likewise with `--set beta=0`, `--set kl=reference`, `--set data=cifar100`,
the other models and, for the wide residual networks, `--set width=0.1`; shown by `aib table 1 --recipe cifar10/narrow_aib_qt
--versus vgg`."""

MAPS = """Table 2 of the paper on the same runs. The score is the share of images whose map stays the same (cosine of at least 0.9)
of those whose prediction survives the edit; a map that never changes has 100. What counts is therefore how far the map
stands above its best control (`aib score`)."""

MAPS_SAY = """The attention maps of `vgg_aib` and `vgg_aib_qt` have the highest score there is under every edit, and no excess: at
this width and budget they are bright nearly everywhere, and the cosine of any two such maps is near 1, which the score of the
paper rewards. What varies in them stays with its own image less than an edge detector or the same network, random in part,
does: under every edit the correlation is below the best control's, and none of the intervals over three seeds reaches 0. The
maps of `vgg_att3` have a greater excess than AIB's under every edit, by high frequencies alone not beyond the interval, and
on the mean a greater correlation; a control is ahead of them too on the mean, by the excess beyond the interval under five of
the ten edits. The wide residual networks, of one seed each, have maps with scores of 87 to 100 and an excess of 5 to 36.
Among them the correlation is greatest for `wrn_abn`, the excess for `wrn_aib`; a control is ahead of all three under every
edit, but for the correlation of `wrn_abn` under the two largest windows of another data set, where they are level. On
CIFAR-100 whether AIB's maps vary is a matter of the seed: by seed the excess of `vgg_aib` is below 1, 79 to 96 and 75 to 87,
that of `vgg_aib_qt` 6 to 27, nothing and 75 to 90. The three runs whose maps are dark on the mean are ahead of every control
by the excess under six or seven edits of ten, the three whose maps are bright under none; over the seeds nothing of it is
beyond the interval. By the correlation AIB is behind a control on the mean under every edit. `vgg_att3` is so by both, with a
correlation that is the greatest of the three under every edit. What this does not show: how the maps of fully trained
networks of full width behave. A number in brackets is how many seeds there are; an interval of so few can reach beyond what
is possible, and one seed has none."""

CURVE_IS = """The error over what the latent keeps of an image, for four prices of a bit: the demo's network on the demo's images,
photographs with handwritten digits, three seeds each."""

CURVE_SAYS = """Of 545 bits the latent can give up all but 22 and make no more errors, as far as three seeds can tell; what a
price costs or gains may be up to 3.1 points in favour of it, or 1.9 against. That a few bits suffice for ten digits is no
surprise: what this does not show is where the curve turns on harder images, or for a price above 0.01."""

CURVE_MADE = """Made with `aib sweep --recipe clutter/vgg_s_aib_qt --vary beta=0,1e-4,1e-3,1e-2 --seeds 0 1 2 --record
results/runs.csv`, drawn by `python docs/make_results.py`."""

FAST_RECIPE = """The recipe `cifar10/fast` is chosen for accuracy per operation: a map of AIB-QT at 15x15 between the first two
blocks of a small network that is arranged as airbench94 (Jordan 2024), 16 epochs. The yardstick is arithmetic, not seconds: 94
% for at most 0.6 PFLOP of training, forward and backward, by a count that is checked against torch's
(`tests/test_training_cost.py`)."""

FAST_SAY = """So the goal is missed by less than a tenth of a point on the plain test, well within the interval of this one seed,
and reached as airbench94 is tested. airbench94 itself, without attention and latent, is reported to need 0.36 PFLOP."""

FIFTH = """At a fifth of that budget, three epochs, beside the same network without attention and latent (`fast`):"""

FIFTH_SAY = """On three seeds attention and latent cost this network a third of a point, for 4 % more operations. What this does
not show: whether the difference lasts to the end of a whole training."""

FAST_MADE = """Made with `aib sweep --recipe cifar10/fast --record results/runs.csv --seeds 0`, `aib eval --mirror` of that run, the
sweep of `--set epochs=3 warmup_epochs=0.7 beta_warmup_epochs=1.5 --vary model=fast_aib_qt,fast --seeds 0 1 2`; at random with
`--set alternate_flip=false`."""

MAPS_MADE = f"""Made with `aib score RUN --record results/scores.csv`; shown by `aib table 2 --recipe {RECIPE}`."""


def page() -> str:
    """The whole page."""
    every = read_runs(RUNS)
    mine = [run for run in every if run["recipe"] == RECIPE]
    runs, hundred = ([run for run in mine if run["data"] == data] for data in ("cifar10", "cifar100"))
    parts = ["# Results", _wrapped(HEAD), "## Does attention pay, and does the bottleneck?", _wrapped(ERRORS)]
    tables = [
        compare_runs([run for run in runs if run["model"].startswith(first[:3])], RECIPE, first)
        for first in ("vgg", "wrn width 0.1")  # networks of other widths are no baselines of each other
    ]
    parts += [*(table.markdown() for table in tables), _wrapped(PAIRS), _pairs(runs).markdown(), *map(_wrapped, tables[0].notes)]
    parts += [_wrapped(ERRORS_SAY), _wrapped(HUNDRED), _hundred(hundred).markdown(), _wrapped(HUNDRED_SAYS)]
    parts += [_wrapped(f"{MADE} {_origin(mine)}")]
    if SCORES.exists():
        scores = [score for score in read_scores(SCORES) if score["recipe"] == RECIPE]
        parts += ["## Do the maps stay where they are when the image is edited?", _wrapped(MAPS)]
        tables = [
            compare_scores(
                [one for one in scores if one["data"] == data and one["model"].startswith(first[:3])], RECIPE, first=first
            )
            for data, first in (("cifar10", "vgg_att3"), ("cifar10", "wrn_abn width 0.1"), ("cifar100", "vgg_att3"))
        ]  # the first is the attentive network that is not ours
        parts += [
            *(table.markdown() for table in tables),
            *map(_wrapped, tables[0].notes),
            _wrapped(MAPS_SAY),
            _wrapped(f"{MAPS_MADE} {_origin(scores)}"),
        ]
    return "\n\n".join([*parts, *_curve(every), *_fast(every)]) + "\n"


def _curve(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The rate-accuracy curve over beta."""
    mine = [run for run in runs if run["recipe"] == CURVE]
    betas = {" ".join([run["model"], *changes(run)]): float(run["beta"]) for run in mine}  # the recipe's own is no change
    table = compare_runs(mine, CURVE, min(betas, key=betas.__getitem__))
    rows = sorted(table.rows, key=lambda row: betas[row[0]])
    shown = tuple((f"{betas[label]:g}", *numbers[:3]) for label, *numbers in rows)
    return [
        "## What do the bits buy?",
        _wrapped(CURVE_IS),
        replace(table, columns=("beta", "error", "minus beta 0", "rate (bits)"), rows=shown).markdown(),
        *map(_wrapped, table.notes[:1]),
        f"![error over the rate in bits, each point with its beta]({PICTURE})",
        _wrapped(CURVE_SAYS),
        _wrapped(f"{CURVE_MADE} {_origin(mine)}"),
    ]


def draw_curve(path: Path) -> None:
    """The figure beside that table."""
    cells: dict[float, list[Mapping[str, str]]] = {}
    for run in read_runs(RUNS):
        if run["recipe"] == CURVE:
            cells.setdefault(float(run["beta"]), []).append(run)
    rows = []
    for beta, runs in sorted(cells.items()):
        errors, rates = ([float(run[key]) for run in runs] for key in ("error", "rate_bits"))
        rows.append({
            "values": {"beta": f"{beta:g}"}, "seeds": [int(run["seed"]) for run in runs], "errors": errors,
            "error": mean_interval(errors), "rate_bits": mean_interval(rates),
        })  # fmt: skip
    sweep_plot(rows, path)


def _pairs(runs: Sequence[Mapping[str, str]]) -> PaperTable:
    """What anchors, the cost of bits and the form of the rate term change, each beside the network that lacks the change."""
    rows = []
    for first in ("vgg_aib", "vgg_aib_qt"):
        table = compare_runs([run for run in runs if run["model"].startswith(first)], RECIPE, first)
        shown = {"vgg_aib_qt", f"{first} beta 0.0", f"{first} kl reference"} - {first}
        rows += [(row[0], first, row[2]) for row in table.rows if row[0] in shown]
    return PaperTable("", ("model and changes", "minus", "points"), tuple(rows), ())


def _hundred(runs: Sequence[Mapping[str, str]]) -> PaperTable:
    """CIFAR-100, where every run has that change."""
    change = " data cifar100"
    table = compare_runs(runs, RECIPE, f"vgg_att3{change}")
    rows = tuple((row[0].replace(change, ""), *row[1:]) for row in table.rows)
    return replace(table, columns=(table.columns[0], table.columns[1], "minus vgg_att3", *table.columns[3:]), rows=rows)


def _fast(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The recipe chosen for accuracy per operation: the whole training, and beside its baseline at a fifth."""
    mine = [run for run in runs if run["recipe"] == FAST]
    whole, at_random = ([run for run in mine if changes(run) == changed] for changed in ([], ["no-alternate-flip"]))
    (run,), (mirrored,), (other,) = (
        [run for run in kind if run["mirror"] == mirror] for kind, mirror in ((whole, ""), (whole, "yes"), (at_random, ""))
    )
    parts = ["## How far does a fast recipe come?", _wrapped(FAST_RECIPE), _wrapped(
        f"Seed {run['seed']}, the weights after the last of {run['epochs']} epochs: {_error(run)} on the 10,000 test images, rate "
        f"{float(run['rate_bits']):.1f} bits, for {float(run['training_pflop']):.2f} PFLOP in {float(run['seconds']) / 60:.0f} "
        f"minutes on one thread of an {run['hardware']}. airbench94 is also tested otherwise, with logits averaged over mirror "
        f"images; so tested, the run has {_error(mirrored)}. {FAST_SAY} The recipe mirrors in turns, as airbench94 does; with "
        f"mirror images at random (`--no-alternate-flip`) the same seed ends at {_error(other)}, rate "
        f"{float(other['rate_bits']):.1f} bits."
    )]  # fmt: skip
    fifth = [run for run in mine if "epochs 3" in changes(run)]  # the first row, by name, is the baseline
    table = compare_runs([run for run in fifth if "no-alternate-flip" not in changes(run)], FAST)
    names = tuple((row[0].split()[0], *row[1:]) for row in table.rows)  # all have the same options
    columns = (table.columns[0], table.columns[1], "minus fast", *table.columns[3:])
    ours = [run for run in fifth if run["model"] == "fast_aib_qt"]
    labels = {" ".join([run["model"], *changes(run)]) for run in ours}
    (turns,) = (label for label in labels if "no-alternate-flip" not in label)
    (other,) = (row for row in compare_runs(ours, FAST, turns).rows if row[0] != turns)
    said = f"Mirrored at random, `fast_aib_qt` has {other[1]}, {other[2]} points beside the runs in turns of the same seeds."
    parts += [_wrapped(FIFTH), replace(table, rows=names, columns=columns).markdown(), _wrapped(f"{FIFTH_SAY} {said}")]
    return [*parts, _wrapped(f"{FAST_MADE} {_origin(mine)}")]


def _error(run: Mapping[str, str]) -> str:
    assert run["error"] == run["last_error"], "the selected weights are not the last ones"
    return f"{100 * float(run['error']):.2f} % error ({100 * float(run['error_low']):.2f} to {100 * float(run['error_high']):.2f})"


def _origin(rows: Sequence[Mapping[str, str]]) -> str:
    """Where the rows come from: hardware, versions and commits."""
    hardware, versions, commits = (sorted({row[key] for row in rows}) for key in ("hardware", "torch", "commit"))
    return f"{', '.join(hardware)}; torch {', '.join(versions)}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}."


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 128, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    (ROOT / "docs" / "results.md").write_text(page(), encoding="utf-8")
    draw_curve(ROOT / "docs" / PICTURE)
