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
except (EOFError, ValueError, TypeError):  # on a full disk Python cuts the compiled file
    import shutil
    shutil.rmtree(folder + "/__pycache__")
    sys.dont_write_bytecode = True
    psik = __import__(module)
sys.exit(psik.main())
