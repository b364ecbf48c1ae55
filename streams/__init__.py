"""The hostile side: a live stream in, sampled frames out. Holds no secrets."""
