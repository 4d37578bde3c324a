"""Units whose explanation is known: rules on tokens, their noise, and false explanations that come close."""

from .build import KINDS as KINDS
from .build import Kind as Kind
from .build import Recipe as Recipe
from .build import Unit as Unit
from .build import build as build
from .rules import Clause as Clause
from .rules import Rule as Rule
from .tokens import Tokens as Tokens
from .tokens import TopicConfig as TopicConfig
from .tokens import topics as topics
