"""The command `svfap`: verbs that parse, call, and say what was done."""
