"""Why are these neurons polysemantic? Three worlds, what is decided about them, and what is not."""

# %% Three worlds of 8 units
from digon.diagnose import Evidence, diagnose
from digon.worlds import causes

worlds = {
    "rotated": causes.rotated(n_rows=6_000, d=8, seed=0),  # 8 features, turned against the neurons
    "superposition": causes.superposition(n_rows=6_000, d=8, seed=0),  # 16 features in 8 dimensions
    "polygons": causes.polygon(n_rows=6_000, d=8, seed=0),  # six exclusive features in every plane, or a circle?
}

# %% The verdict is a set of causes: those that the activations leave standing
for name, world in worlds.items():
    verdict = diagnose(Evidence(world.activations))
    word = "decided" if verdict.decided else "not decided"
    print(f"\n{name}, {word}: {', '.join(verdict.causes)}")
    print(f"    {verdict.sentence}")
    print(f"    number of features: {verdict.n_features.point:.0f}, dimensions: {verdict.rank:.0f}")
    for question in verdict.undecided:
        print(f"    open: {question}")
    if verdict.next_experiment:
        print(f"    what would decide: {verdict.next_experiment}")
