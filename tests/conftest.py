"""For pytest, where a shell that ran it in the background had SIGINT ignored."""
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
