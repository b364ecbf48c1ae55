"""Who may speak: signed alerts, acknowledgements and commands, and the keys that they are held against."""
