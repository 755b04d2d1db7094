"""The command line: one file per verb, `app` puts them together."""
