"""`tilewright bench`: how fast the kernels are, beside this machine's peaks and beside others.

Open `run` for the order of things, `peaks` for what the machine can do at most, `roofline` for the
work of a call, `problem` for inputs and the check of outputs, `measure` for the timing, `peers` and
`engines` for who else is measured, `results` for the rows and their table, `plot` for the picture.
"""
