"""The paper's claims, tested end to end at small scale: `maskgen reproduce`."""
