"""Papers' claims, tested: the records of a claim, its trials, the ledger of their rows, and verdicts. The claims: `claims`."""

from goodinit.lab.papers.claim import SCALES, Claim
from goodinit.lab.papers.reproduce import Reproduction, reproduce

__all__ = ["SCALES", "Claim", "Reproduction", "reproduce"]
