"""What was published of the mainline recipes, beside what they do here: is their order the same, and are the gaps?

Source: Chanin & Garriga-Alonso 2026, read off its figures to ± .01: 16,384 features in 768 dimensions, 4,096 latents, whose
features add up to 25 active per row; 2·10⁸ rows; scored by the encoder of training.
"""

from collections.abc import Sequence

from .report import Cell, table

AT = (15, 25, 40)
"""Their target l0, .6, 1 and 1.6 of what the latents' features add up to."""
F1 = {
    "matryoshka": (0.61, 0.88, 0.77),
    "batchtopk": (0.745, 0.73, 0.58),
    "jumprelu": (0.715, 0.61, 0.45),
    "standard": (0.59, 0.555, 0.455),
}
MCC = {
    "matryoshka": (0.56, 0.793, 0.792),
    "batchtopk": (0.678, 0.757, 0.763),
    "jumprelu": (0.685, 0.729, 0.74),
    "standard": (0.56, 0.604, 0.643),
}


def beside(cells: Sequence[Cell]) -> str:
    """A table of published and measured numbers, by the published definitions; empty unless l0 has three values."""
    grid = sorted({cell.l0 for cell in cells})
    known = {(cell.coder, cell.l0): cell for cell in cells}
    coders = [name for name in F1 if all((name, l0) in known for l0 in grid)]
    if len(grid) != len(AT) or not coders:
        return ""
    rows = []
    for coder in coders:
        row = [coder]
        for told, score in ((F1, "public_f1"), (MCC, "public_mcc")):
            its = (known[coder, l0].scores[score].value for l0 in grid)
            row += [f"{value:.2f} ({there:.2f})" for value, there in zip(its, told[coder], strict=True)]
        rows.append(row)
    head = ["here (published)", *(f"F1 at {l0} ({there})" for l0, there in zip(grid, AT, strict=True))]
    head += [f"MCC at {l0} ({there})" for l0, there in zip(grid, AT, strict=True)]
    return "\n\n".join(["### Beside the published numbers", *_orders(coders, known, grid), table(head, rows)])


def _orders(coders: Sequence[str], known: dict[tuple[str, int], Cell], grid: Sequence[int]) -> list[str]:
    """Where the order of the recipes is the published one, and where it is not."""
    same, other = list[str](), list[str]()
    for name, told, score in (("F1", F1, "public_f1"), ("MCC", MCC, "public_mcc")):
        for i, (l0, there) in enumerate(zip(grid, AT, strict=True)):
            here = sorted(coders, key=lambda c: -known[c, l0].scores[score].value)
            theirs = sorted(coders, key=lambda c: -told[c][i])
            place = f"{name} at l0 = {l0} ({there} there)"
            if here == theirs:
                same.append(place)
            else:
                other.append(f"{place}: {' > '.join(here)}, published {' > '.join(theirs)}")
    return [
        *([f"The order is the published one in {'; '.join(same)}."] if same else []),
        *([f"It is another in {'; '.join(other)}."] if other else []),
    ]
