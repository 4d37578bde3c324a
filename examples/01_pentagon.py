"""Five sparse features in two dimensions: the pentagon, from training to its name.

A layer with two dimensions can hold five features if they are rarely active together. It pays with interference.
"""

# %% The features: independent, each active in 5 % of the rows
from digon.measures import feature_dimensionality, interference
from digon.measures.polytopes import polytopes
from digon.worlds import FitConfig, Toy, features, fit

law = features(n=5, density=0.05)

# %% Sixteen networks from different starts, trained on their exact expected loss
found = fit(Toy(5, 2, instances=16), law, FitConfig(engine="exact"))
W = found.toy.W[found.best].detach()
print(f"loss of the best network: {found.loss[found.best]:.6f}")

# %% What did it find?
print("geometry:", ", ".join(shape.name for shape in polytopes(W)))
print("share of a dimension per feature:", feature_dimensionality(W).numpy().round(3))
print("interference per feature:", interference(W).numpy().round(3))

# %% With denser features superposition does not pay, and the network keeps two of the five
dense = fit(Toy(5, 2, instances=16), features(n=5, density=1.0), FitConfig(engine="exact"))
print("dense features:", ", ".join(shape.name for shape in polytopes(dense.toy.W[dense.best].detach())))
