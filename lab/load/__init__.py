"""Load: many clients at once, against the lab's own listener and nothing else.

`profiles` says what to send, `runner` starts the generator as a process of the lab, `results` tells what came back.
"""
