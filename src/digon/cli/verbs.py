"""One function per verb, imported when it is called, with no logic of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from ..studies.explaining.settings import ExchangeConfig, ExplainConfig, Spending, WordsConfig
from ..studies.settings import (
    AnchorsBenchmark,
    AuditConfig,
    DecodeConfig,
    DecodingBenchmark,
    DiagnoseConfig,
    DiagnosisBenchmark,
    DirectionsBenchmark,
    DirectionsConfig,
    ExplanationBenchmark,
    LadderStudy,
)
from ..studies.toys.settings import ToyConfig


def demo(out: Path = Path("runs/demo"), *, seed: int = 0, tokens: int = 150_000) -> dict[str, Any]:
    """Train a small transformer on the text that every Python carries, audit it, build the page.

    Takes a few minutes on two cores. A second call reuses everything that is done.

    Args:
        out: folder of the run.
        seed: seed of everything random.
        tokens: how many tokens to look at.
    """
    from ..studies.demo import run_demo

    return _with_page(run_demo(out, seed=seed, tokens=tokens))


def audit(
    settings: Annotated[AuditConfig, tyro.conf.arg(name="")], *, out: Path | None = None, config: Path | None = None
) -> dict[str, Any]:
    """How polysemantic are a network's units, what is the evidence why, what do they respond to?

    Harvests activations, measures every unit, runs the quick checks, decodes one site with a sparse autoencoder, explains
    units without a language model, and builds a page. Killed at any moment, the same command goes on where it was.

    Args:
        settings: what to look at and how.
        out: folder of the run; default runs/<model>.
        config: TOML with settings of an audit; other flags override it.
    """
    from ..studies.audit import run_audit

    return _with_page(run_audit(settings, out or Path("runs") / Path(settings.model.removeprefix("package:")).name))


def harvest(
    model: Positional[str],
    *,
    data: Path | None = None,
    site: str = "layers.*.mlp.act",
    out: Path,
    tokens: int = 200_000,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write the activations of some sites to disk as checked, resumable shards.

    Args:
        model: a folder, an installed package that carries a model, a hub name, or world:tree?features=256&d=64.
        data: text: a file, a folder, .jsonl or .parquet; default: Python's own source and documentation.
        site: glob over sites.
        out: folder for the shards.
        tokens: how many tokens.
        seed: seed of the order of contexts.
        device: cpu, cuda, cuda:1, mps.
    """
    from ..studies.steps import harvest_to

    return harvest_to(out, model=model, data=data, site=site, tokens=tokens, seed=seed, device=device)


def decode(settings: Annotated[DecodeConfig, tyro.conf.arg(name="")]) -> dict[str, Any]:
    """Train sparse autoencoders on harvested activations, write them in SAELens' layout and measure them.

    Where the network and its text are known, also: what the network loses by a reconstruction, and what single latents tell
    apart. Where the activations are a world's: scores against its truth. Builds the page, if the run can have one.
    With --target-site a transcoder, which writes another site than it reads; with --cross-sites a crosscoder, one code
    for several sites. Killed at any moment, the same command goes on where it was. `torchrun --nproc-per-node N -m digon.cli
    decode …` trains in N processes, with the result of one up to the rounding of sums.

    Args:
        settings: what to decode, and with which autoencoders.
    """
    from ..studies.decode import decode_run

    result = decode_run(settings)
    # Of several processes only the first one has something to say.
    return {**_with_page(result), "weights": result["weights"], "use": result["next"]} if result else {}


def explain(
    settings: Annotated[ExplainConfig, tyro.conf.arg(name="")],
    words: Annotated[WordsConfig, tyro.conf.arg(name="")],
    spending: Annotated[Spending, tyro.conf.arg(name="")],
    *,
    out: Path | None = None,
) -> dict[str, Any]:
    """What do units respond to? Explanations in patterns and, with --llm or --local, in words; each with honest scores.

    Every explanation is made from some documents and scored on others: by how well it predicts the unit, for how many
    bits, beside the explanations of other units. Builds a page with a card per unit. A language model is asked only
    after everything else is written; whatever it refuses is reported, and the same command goes on where it was: no
    call is paid twice. Killed at any moment, likewise.

    Args:
        settings: what to explain, and how.
        words: which language model to ask, and for what.
        spending: how much, how fast.
        out: folder of the run; default: one for every choice of settings, such as runs/explain-demo-1c9a2f.
    """
    from ..studies.explaining.study import run_explain

    return _with_page(run_explain(settings, words, spending, out))


def exchange(settings: Annotated[ExchangeConfig, tyro.conf.arg(name="")], *, out: Path) -> dict[str, Any]:
    """Take units and explanations to other tools and back: neuron-explainer, Neuronpedia, delphi.

    `digon exchange RUN --to neuronpedia --out FOLDER` writes the cards of a run as Neuronpedia imports them, and says
    what that format has no place for. `digon exchange FOLDER --out RUN` looks at the units of another tool with ours: a
    run with a page and a card per unit, with the scores that stand there; it measures nothing again.

    Args:
        settings: what to take where.
        out: with --to a new folder; without it the folder of the run.
    """
    from ..studies.explaining.exchange import run_exchange

    result = run_exchange(settings, out)
    return _with_page(result) if "run" in result else result


def directions(
    settings: Annotated[DirectionsConfig, tyro.conf.arg(name="")], *, out: Path | None = None
) -> dict[str, Any]:
    """Which directions can be explained, where units cannot? Judged on unseen documents, beside units and beside chance.

    Writes a page with a card per direction, and directions.safetensors, which `digon explain --directions` reads.

    Args:
        settings: where to look, by which explanations, and how hard.
        out: folder of the run, which the same command resumes; default: one for every choice of settings.
    """
    from ..studies.directions.study import run_directions

    return _with_page(run_directions(settings, out))


def reproduce(
    ids: Positional[tuple[str, ...]] = (),
    *,
    all: bool = False,
    size: Literal["smoke", "paper"] = "paper",
    out: Path | None = None,
    report: Path | None = None,
    figures: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    full: bool = False,
) -> dict[str, Any]:
    """Check claims about toy networks: what was published, what calculation says, what we measure.

    Runs the studies behind the claims, judges every claim (holds, differs, not reached) and builds the toy laboratory.
    Studies that are done are not run again. Without ids it lists the claims and runs nothing.

    Args:
        ids: claims (E4.1), sections (E4) or studies (pentagon).
        all: every claim.
        size: smoke takes seconds per study and judges what it can; paper reaches the numbers, about 20 minutes for all.
        out: folder of the run; default runs/toys, or runs/toys-smoke.
        report: also write the verdicts as Markdown, such as docs/results/toy-models.md.
        figures: also write the figures as SVG into this folder (needs the extra `figures`).
        seed: seed of everything random.
        device: for the studies that train in torch (robustness, privileged, absolute); the others run compiled on the CPU.
        full: sizes of the papers where paper size is a reduced one (hours).
    """
    from ..studies.toys import verbs

    if not ids and not all:
        return verbs.listing()
    settings = {"size": size, "seed": seed, "device": device, "full": full}
    result = _with_page(verbs.reproduce_claims(ids, out, report, **settings))
    if figures is not None:
        _export(Path(result["run"]), figures)
    return result


def toy(config: Annotated[ToyConfig, tyro.conf.arg(name="")], *, out: Path | None = None) -> dict[str, Any]:
    """Train one toy network and look at it: feature directions, norms, interference, geometry.

    Args:
        config: the network, its features and how to train it.
        out: folder of the run; default: one for every choice of settings, such as runs/toy-5in2-1c9a2f.
    """
    from ..config import digest
    from ..studies.toys.single import run_toy
    from ..studies.toys.verbs import to_stderr

    folder = out or Path("runs") / f"toy-{config.n}in{config.m}-{digest(config)[:6]}"
    return _with_page(run_toy(config, folder, to_stderr))


def diagnose(
    settings: Annotated[DiagnoseConfig, tyro.conf.arg(name="")], *, out: Path | None = None, budget: bool = False
) -> dict[str, Any]:
    """Why are units polysemantic? A set of causes that the evidence leaves standing, and what would decide.

    A world of a known cause is named like 'world:superposition?load=3&active=2&d=16&rows=30000'.

    Args:
        settings: what to diagnose, and what is known about it.
        out: folder of the run; default: one for every choice of settings, such as runs/diagnose-acts-1c9a2f.
        budget: with --json, also print the share of every cause in every unit.
    """
    from ..studies.diagnosis import document, run_diagnosis

    result = _with_page(run_diagnosis(settings, out))
    return {**result, "document": document(result["diagnosis"], budget=budget)}


def benchmark(
    of: Annotated[
        Annotated[DiagnosisBenchmark, tyro.conf.subcommand("diagnosis")]
        | Annotated[DecodingBenchmark, tyro.conf.subcommand("decoding")]
        | Annotated[ExplanationBenchmark, tyro.conf.subcommand("explanation")]
        | Annotated[DirectionsBenchmark, tyro.conf.subcommand("directions")]
        | Annotated[AnchorsBenchmark, tyro.conf.subcommand("anchors")],
        tyro.conf.arg(name=""),
    ],
) -> dict[str, Any]:
    """How often is digon right? Worlds whose truth is known, drawn beforehand; what was called, beside what was true.

    Killed at any moment, the same command goes on where it was; what failed is tried again.

    Args:
        of: what is measured; `digon benchmark NAME --help` shows its flags.
    """
    folder = lambda name: of.out or Path("runs") / f"benchmark-{name}"  # noqa: E731
    if isinstance(of, AnchorsBenchmark):
        from ..studies import anchors

        return anchors.write(folder("anchors"), of.report)
    if isinstance(of, DirectionsBenchmark):
        from ..studies.directions import benchmark as directions

        return directions.run_benchmark(of, folder("directions"))
    if isinstance(of, DecodingBenchmark):
        from ..studies.decoding_benchmark.study import run_decoding

        return _draw(run_decoding(of, folder("decoding"), of.report), of.report)
    if isinstance(of, ExplanationBenchmark):
        from ..studies.explanation_benchmark.study import run_explanation

        return _draw(run_explanation(of, folder("explanation"), of.report), of.report)
    from ..studies.diagnosis_benchmark.study import run_benchmark

    return run_benchmark(of, folder("diagnosis" + "-smoke" * (of.size == "smoke")), of.report)


def study(
    name: Positional[Literal["ladder"]], settings: Annotated[LadderStudy, tyro.conf.arg(name="")]
) -> dict[str, Any]:
    """Ask a question of many networks at once: ladder trains small transformers and compares what their units mean.

    Sizes, depths, activations and sparsities, all on the same tokens; what explanations score, per layer, and slopes
    beside the published ones. Killed at any moment, the same command goes on where it was; what failed is tried again.

    Args:
        name: which study.
        settings: how much of it, and where results go.
    """
    from ..studies.ladder.study import run_ladder

    folder = settings.out or Path("runs") / (f"study-{name}" + "-smoke" * (settings.size == "smoke"))
    return _with_page(_draw(run_ladder(settings, folder, settings.report), settings.report))


def runs(folder: Positional[Path] = Path("runs")) -> dict[str, Any]:
    """List the runs in a folder: what they looked at, how far they got.

    Args:
        folder: where to look.
    """
    from ..page.terminal import list_folder

    return list_folder(folder)


def page(run: Positional[Path], *, out: Path | None = None) -> dict[str, Any]:
    """Build the page of a run again: one HTML file that opens from disk. Needs no torch.

    Args:
        run: the run folder.
        out: where to write it; default page.html in the run folder.
    """
    from ..page.build import build

    path = build(run, out)
    return {"page": str(path), "next": f"open {path} in a browser"}


def _with_page(result: dict[str, Any]) -> dict[str, Any]:
    from ..page.build import build

    if not (Path(result["run"]) / "facts.json").is_file():
        return result  # an audit that is not finished has no page yet
    path = build(Path(result["run"])).resolve()
    return {**result, "page": str(path), "next": f"open {path.as_uri()} in a browser, or list runs with `digon runs`"}


def _export(run: Path, folder: Path) -> None:
    from ..page.figures import export
    from ..store.runs import Run

    export(Run.open(run), folder)


def _draw(result: dict[str, Any], report: Path | None) -> dict[str, Any]:
    """The pictures of a benchmark, beside its report; without matplotlib there are none."""
    from ..errors import ConfigError
    from ..page.figures import write
    from ..records import Figure, from_json

    found = from_json(list[Figure], Path(result["pictures"]).read_text(encoding="utf-8"))
    try:
        for folder in {Path(result["run"]), report.parent if report is not None else Path(result["run"])}:
            write(found, folder)
    except ConfigError as error:
        result = {**result, "sentences": [*result["sentences"], f"No pictures: {error}"]}
    return result


VERBS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "audit": audit,
    "harvest": harvest,
    "decode": decode,
    "explain": explain,
    "exchange": exchange,
    "directions": directions,
    "reproduce": reproduce,
    "toy": toy,
    "diagnose": diagnose,
    "benchmark": benchmark,
    "study": study,
    "runs": runs,
    "page": page,
}
