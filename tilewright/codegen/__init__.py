"""From IR to machine code; one folder for each way of getting there."""
