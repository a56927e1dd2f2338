#!@python@
# The command psik, made by `psik.py install`: it runs psik.py, compiled once, and nothing that lies where one stands.
import sys
@place@
sys.path.append(folder)  # last: nothing that lies beside psik.py stands in for a module of Python's own
try:
    psik = __import__(module)
except ImportError as err:
    sys.exit("psik: %s in %s; where psik.py was moved, run its `install` again" % (err, folder))
sys.exit(psik.main())
