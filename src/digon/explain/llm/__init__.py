"""Ask language models to explain and to simulate units: once for every question, within a budget, without invented zeros.

wire      server, call, reply; the identity of a call           journal   cache, resume, replay, bill
pacing    rates, concurrency, waits                              budget    money, tokens, calls
faults    what went wrong, in one clear error                    client    all of that together
probe     what a server can truly do                             prompts   what we say
simulate  the chain of ways to simulate                          local     the best of them inside this process
explainers  descriptions and meanings        scorers  is a description any good?
local_client  a model inside this process, behind the client's face
bounds    how much what is missing could matter
"""

from .bounds import score as score
from .budget import Budget as Budget
from .budget import Prices as Prices
from .client import Client as Client
from .client import Missing as Missing
from .client import Progress as Progress
from .client import bar as bar
from .journal import Journal as Journal
from .journal import Totals as Totals
from .pacing import Limits as Limits
from .probe import Capabilities as Capabilities
from .probe import probe as probe
from .simulate import Simulation as Simulation
from .simulate import simulate as simulate
from .wire import Call as Call
from .wire import Reply as Reply
from .wire import Server as Server
