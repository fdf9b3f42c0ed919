"""Right answers on the device, with models of full size."""

from card.checks import steps

STEPS = steps(large=True)
