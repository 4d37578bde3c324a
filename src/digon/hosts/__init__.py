"""Hosts: real networks behind one face, their sites, hooks on them, text, and the harvest of activations."""

from .corpus import Corpus as Corpus
from .corpus import CorpusReport as CorpusReport
from .corpus import Document as Document
from .corpus import python_corpus as python_corpus
from .corpus import read_corpus as read_corpus
from .corpus import split as split
from .harvest import HarvestConfig as HarvestConfig
from .harvest import harvest as harvest
from .load import Host as Host
from .load import load_host as load_host
from .sites import Site as Site
from .sites import Unit as Unit
from .sites import discover as discover
from .sites import match as match
from .taps import Edit as Edit
from .taps import ablate as ablate
from .taps import capture as capture
from .taps import edited as edited
from .taps import replace as replace
from .taps import steer as steer
