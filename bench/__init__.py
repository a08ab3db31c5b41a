"""One script per performance claim: python -m bench.NAME [--json FILE]."""
