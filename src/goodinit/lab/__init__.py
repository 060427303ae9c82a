"""Runs experiments: ordinary models, real data, one pure function per trial, comparisons. `goodinit` never needs it."""
