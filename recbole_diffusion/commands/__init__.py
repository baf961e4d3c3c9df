"""What the command line has beside its reading of words: the table of commands, help, and lists of what there is."""
