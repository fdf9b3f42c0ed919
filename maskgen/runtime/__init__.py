"""What every part of maskgen runs on: devices, files, processes."""
