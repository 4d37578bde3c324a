"""Sparse autoencoders: one model, five activations, nested prefixes, revival of dead latents.

config        what an SAE is
model         pre-activations, codes, reconstruction; the coder
activations   relu, topk, batchtopk, jumprelu, gated: which pre-activations become codes
nested        prefixes that have to reconstruct by themselves
revival       what brings dead latents back
refine        encoders that look again at what their codes leave over, or leave out codes that the others make needless
transcoder    how an SAE starts that reads one site and writes another
sites         crosscoders: several sites side by side, and how latents are shared among them
folding       changes of scale, folded into the weights
"""

from .activations import ACTIVATIONS as ACTIVATIONS
from .config import Nested as Nested
from .config import SAEConfig as SAEConfig
from .config import Target as Target
from .model import SAE as SAE
from .model import Pass as Pass
from .refine import LeaveOneOut as LeaveOneOut
