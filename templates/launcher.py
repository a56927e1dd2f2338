#!@python@
# The command psik, made by `psik.py install`.  It imports psik.py, so that it is compiled once, and
# nothing from the current directory.
import sys
@place@
sys.path.append(folder)  # last, so that no file beside psik.py replaces a module of Python's own
try:
    psik = __import__(module)
except ImportError as err:
    sys.exit("psik: %s in %s; if psik.py was moved, run its `install` again" % (err, folder))
sys.exit(psik.main())
