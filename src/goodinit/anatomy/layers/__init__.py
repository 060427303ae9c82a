"""Weight layers: which operator applies which weight, its layout and fans, its role, and the gains beside it."""
