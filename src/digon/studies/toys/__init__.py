"""The literature on toy models of superposition, one study per module: `run(config, say) -> Outcome`."""
