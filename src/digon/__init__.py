"""digon: how polysemantic are the units of a network, why, which features lie behind them, and so what?"""

__version__ = "0.1.0"
