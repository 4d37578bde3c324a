"""Sparse autoencoders: one model, five activations, nested prefixes, revival of dead latents.

config        what an SAE is
model         pre-activations, codes, reconstruction; the coder
activations   relu, topk, batchtopk, jumprelu, gated: which pre-activations become codes
nested        prefixes that have to reconstruct by themselves
revival       what brings dead latents back
"""

from .activations import ACTIVATIONS as ACTIVATIONS
from .config import Nested as Nested
from .config import SAEConfig as SAEConfig
from .model import SAE as SAE
from .model import Pass as Pass
