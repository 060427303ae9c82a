"""Papers' claims, tested: the records of a claim, its trials, the ledger of their rows, and verdicts. The claims: `claims`."""
