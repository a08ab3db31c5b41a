"""Benchmarks with lm-eval: results, tables, plots."""
