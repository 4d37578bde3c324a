"""Polysemantic neurons, two causes: rotated features are not superposition, and a statistic tells them apart."""

# %% Two worlds whose neurons look alike: every one responds to several features
from digon import rng
from digon.measures import residual_dependence, rotation_test
from digon.worlds import causes

worlds = {
    "rotated": causes.rotated(n_rows=20_000, d=16, seed=0),  # 16 features in 16 dimensions, turned against the neurons
    "superposition": causes.superposition(n_rows=20_000, d=16, seed=0),  # 32 features in 16 dimensions
}

# %% Are the neurons' axes special? In neither world: z stays near 0
for name, world in worlds.items():
    print(f"{name}: rotation test z = {rotation_test(world.activations.values, rng.stream(0, 'haar')).z:.1f}")

# %% Does a linear unmixing make the units independent? Only if they were rotated: then about 1 is left
for name, world in worlds.items():
    data = world.activations
    left = residual_dependence(data.values, data.documents, seed=0)
    print(f"{name}: dependence after the best unmixing {left.ratio:.0f}, in an independent world {left.reference:.0f}")
