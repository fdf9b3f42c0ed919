"""The trainer's small runs and the model's tiny ones serve here too."""

import sys
from pathlib import Path

for _neighbour in ("training", "age_vlm"):
    sys.path.append(str(Path(__file__).parents[1] / _neighbour))
