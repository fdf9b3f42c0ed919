"""A GPU checked and measured in nine minutes: see `card.sh`."""
