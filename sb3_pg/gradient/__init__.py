"""What a batch says about its own gradient: its variance, its signal, how large a batch would do; it only reads."""
