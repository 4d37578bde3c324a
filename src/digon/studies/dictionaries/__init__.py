"""What a trained dictionary is worth: records beside its weights, which the page and the command line read.

    <run>/sae/<name>/
      about.json        what it is: site, activation, sizes, target l0, seed
      latents.parquet   a row per latent: density, mean code, encoder mismatch, nearest latents, suspects of absorption
      geometry.json     cosines of all pairs and of nearest atoms, beside random directions
      measured.json     fvu, l0, dead, dense, twins, absorption, with intervals
      host.json         what the network loses when it reads the reconstruction     where the network is known
      probes.parquet    sparse probes of every concept; probes.json their means      where the text is known
      truth.json        scores against the truth; truth.parquet a row per latent     where the world is known
      stability.json    agreement with the same dictionary from other seeds          where there are some

Every file is a stage of its own: a run that is killed redoes only what is missing.
"""

from .place import bench as bench
from .place import mark as mark
from .place import named as named
from .seeds import compare as compare
from .worlds import WORLD as WORLD
from .worlds import harvest_world as harvest_world
from .write import Bench as Bench
from .write import describe as describe
from .write import summary as summary
