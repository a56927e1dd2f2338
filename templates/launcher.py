#!@python@
# The command psik, made by `psik.py install`.  It imports psik.py, so that it is compiled once, and
# nothing from the current directory.
import os
import sys
@place@
sys.path.append(folder)  # last, so that no file beside psik.py replaces a module of Python's own
if not os.access(folder, os.W_OK):  # its compiled file goes to the user's cache
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.path.join(cache, "psik/compiled")
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        if os.stat(cache).st_uid == os.getuid() and not os.stat(cache).st_mode & 0o077:
            sys.pycache_prefix = cache
    except OSError:  # it is compiled each time
        pass
try:
    psik = __import__(module)
except ImportError as err:
    sys.exit("psik: %s in %s; if psik.py was moved, run its `install` again" % (err, folder))
except (EOFError, ValueError, TypeError):  # on a full disk Python cuts the compiled file
    import shutil
    shutil.rmtree(getattr(sys, "pycache_prefix", None) or folder + "/__pycache__")
    sys.dont_write_bytecode = True
    psik = __import__(module)
sys.exit(psik.main())
