"""The pictures of the study of correlated features (`correlated`): circles, blocks, thresholds."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....measures.geometry import gram
from ....records import Figure, Frame, Panel, Series
from ..diagram import Settled
from ..sketch import Role, grid, line, points, series, still

SOURCE = "Elhage et al. 2022, correlated and anticorrelated features"


def _arrows(name: str, W: Tensor, role: Role = "measured") -> Series:
    x, y = W[0] / W[0].norm().clamp(min=1e-9)
    turned = W @ torch.stack([torch.stack([x, -y]), torch.stack([y, x])])
    return series("arrows", name, turned[:, 0], turned[:, 1], color=np.arange(len(W)) // 2, role=role)


def _ring(radius: float, name: str) -> Series:
    angle = np.linspace(0, 2 * np.pi, 49)
    return line(name, radius * np.cos(angle), radius * np.sin(angle), "guide")


def _plane(title: str, W: Tensor, role: Role = "measured") -> Panel:
    rings = (_ring(1.0, "norm 1"), _ring(0.5**0.5, "norm 1/√2"))
    return Panel(
        title, "", "", (*rings, _arrows("features", W, role)), square=True, color_label="pair", color_range=(0.0, 2.0)
    )


def _best(found: Settled, k: int, repeats: int) -> Float[Tensor, "n m"]:
    """The best of the repeats at density number k."""
    return found.W[k * repeats + int(found.loss[k * repeats : (k + 1) * repeats].argmin())]


def pictures(networks: dict[str, Settled]) -> Figure:
    """Small networks as arrows."""
    panels = tuple(_plane(title, found.W[int(found.loss.argmin())]) for title, found in networks.items())
    return Figure(
        "E5-pairs", "Pairs of features in two dimensions", SOURCE + ", first figure",
        "Correlated features (one color) stand at right angles, or side by side in a hexagon; anticorrelated ones are "
        "exactly opposite.",
        "Each picture is the best of several trainings. The paper does not state its density; here 0.05 and 0.03.",
        still(*panels), columns=4,
    )  # fmt: skip


def blocks(densities: tuple[float, ...], found: Settled, repeats: int) -> Figure:
    """Gram matrices of two sets of ten."""
    frames = []
    for k, density in enumerate(densities):
        W = _best(found, k, repeats)
        heat = grid(range(1, 21), range(1, 21), gram(W), diverging=True)
        frames.append(Frame(f"{density:g}", (Panel("W Wᵀ", "feature", "feature", grid=heat, square=True, color_range=(-1.0, 1.0)),)))  # fmt: skip
    return Figure(
        "E5-bases", "Two correlated sets: each an almost orthogonal basis", SOURCE + ", local almost-orthogonal bases",
        "The two blocks on the diagonal are nearly the identity; all interference is between the sets.",
        "At higher densities some features of a set collapse onto one direction: see the last frames.",
        tuple(frames), "density", 1,
    )  # fmt: skip


def circles(sweep: np.ndarray, found: Settled, optimum: Settled, repeats: int) -> Figure:
    """Three correlated pairs at every density."""
    frames = []
    for k, density in enumerate(sweep):
        panels = (_plane("trained", _best(found, k, repeats)), _plane("exact optimum", optimum.W[k], "theory"))
        frames.append(Frame(f"{density:g}", panels))
    return Figure(
        "E5-collapse", "Correlated pairs collapse as features get denser", SOURCE + ", collapsing of correlated sets",
        "A collapsed pair is one arrow at norm 1/√2: the direction of the sum of its features. Sparse: none; then one, "
        "two, and all three.",
        "Densities of the changes differ from the published ones, which come from what gradient descent found.",
        tuple(frames), "density", 2,
    )  # fmt: skip


def staircase(
    sweep: np.ndarray, trained: np.ndarray, density: np.ndarray, loss: np.ndarray, count: np.ndarray
) -> Figure:
    """Collapsed pairs of trained networks [sweep, repeats], beside loss and collapsed pairs of the arrangements [density, 4]."""
    optimum = np.take_along_axis(count, loss.argmin(1)[:, None], 1)[:, 0]
    published = ([0.03, 0.05, 0.05, 0.15, 0.15, 0.2, 0.25, 0.5], [0, 0, 1, 1, 2, 2, 3, 3])
    steps = Panel(
        "collapsed pairs", "density", "pairs",
        (line("exact optimum", density, optimum), line("published", *published, role="published"),
         points("trained, three repeats", np.repeat(sweep, trained.shape[1]), trained)), x_log=True,
    )  # fmt: skip
    ratio = loss / loss.min(1)[:, None]
    lines = tuple(line(f"{k} collapsed", density[count[:, k] == k], ratio[count[:, k] == k, k]) for k in range(4))
    losses = Panel("loss of each arrangement over the lowest", "density", "ratio", lines, x_log=True)
    return Figure(
        "E5-thresholds", "Where pairs collapse", SOURCE + ", collapsing of correlated sets",
        "Each arrangement has its range of densities; where two lines cross at the bottom, the optimum changes.",
        "A line ends where its arrangement is no longer a minimum.",
        still(steps, losses), columns=2,
    )  # fmt: skip
