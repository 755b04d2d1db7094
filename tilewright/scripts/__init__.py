"""Running other people's kernel scripts as they are.

Open `names` for what `pypto` and `golden` stand for, `worker` for the process that a script runs in,
`batch` for many scripts, `outcome` for how a run ended.
"""
