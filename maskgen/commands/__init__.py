"""Commands by subject, hung into `maskgen.cli`: parse, call, print."""
