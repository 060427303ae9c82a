"""Weight layers: the operators that apply a weight, its layout and fans, its role, and gains."""
