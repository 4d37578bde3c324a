"""The literature on toy models of superposition, one study per module: `run(config, say) -> Outcome`.

    paper/       a study per section of "Toy Models of Superposition" (Elhage et al. 2022)
    followups/   a study per later article
    laboratory   figures with controls, to play with
    single       one network from flags: `digon toy`
    claims       rows of claims and the verdict on them; reproduce runs studies and judges: `digon reproduce`

The other modules are what studies share: diagrams, training loops, quadrature, short ways to write figures.
"""
