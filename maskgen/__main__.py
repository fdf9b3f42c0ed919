"""`python -m maskgen`: the command line where no console script was installed."""

from maskgen.cli import script

script()
