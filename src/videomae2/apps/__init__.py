"""What a person touches: the command line, prediction, reports, the quickstart."""
