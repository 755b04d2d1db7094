"""The one form of a program: its grammar, its operators, its text, and how it is walked and checked."""
