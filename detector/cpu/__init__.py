"""What looking at streams costs in CPU time, what a setting buys with it, and who gets how much while it is short."""
