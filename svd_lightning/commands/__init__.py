"""The verbs of the command line: each in a file or a folder of its own, none importing another."""
