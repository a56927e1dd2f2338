# Runs psik.py on a host that `psik.py --on HOST` has reached by ssh.
#
# A copy of psik.py stays there, in a folder named by its hash.
#
# argv: this program; the mark that sets our words off from those of a login; the hash of psik.py.
# stdin: the length of the request in a line, and the request; the same for each file asked for.
# stdout: `MARK want NAME...`, `MARK full REASON`, or `MARK go`; what follows is the command's own.
import os
import stat
import sys
import time
from contextlib import suppress

MARK, HASH = sys.argv[2:4]
BEGIN = "import base64, sys; exec(base64.b64decode(sys.argv[1]))"
NAMES = ["psik.py"] + ["dataclasses.py"] * (sys.version_info < (3, 7))
FOLDER = HASH + "-3.6" * (len(NAMES) > 1)
KEEP_S = 30 * 86400     # a copy goes when it has not been used for so long


def tell(words):
    os.write(1, ("%s %s\n" % (MARK, words)).encode("utf-8", "backslashreplace"))


def read(size):
    data = b""
    while len(data) < size:
        block = os.read(0, size - len(data))
        if not block:
            os._exit(1)     # the connection is gone, and with it whoever could be told
        data += block
    return data


def read_sized():
    line = b""
    while not line.endswith(b"\n"):
        line += read(1)
    return read(int(line))


def places():
    """Where the copies may be kept, the best place first."""
    home = os.path.expanduser("~")
    yield os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "psik")
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(os.environ["XDG_RUNTIME_DIR"], "psik")
    yield os.path.join(os.environ.get("TMPDIR") or "/tmp", "psik-%d" % os.getuid())


def is_ours(path):
    """Whether a folder is ours alone: no link, and nobody else can write to it."""
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() \
        and not status.st_mode & 0o022


def find():
    """The folder of the copy; None if there is no whole one."""
    for place in places():
        folder = os.path.join(place, FOLDER)
        files = [os.path.join(folder, name) for name in NAMES]
        if os.path.isdir(folder) and is_ours(place) and is_ours(folder) \
                and all(map(os.path.isfile, files)):
            return folder


def write(path, content):
    """Make a file, and see it on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def keep(files, place):
    """Write a copy, whole or not at all; its folder."""
    import hashlib
    import shutil
    os.makedirs(place, 0o700, exist_ok=True)
    if not is_ours(place):
        raise OSError("%s: others can write there, or it is a link" % place)
    folder = os.path.join(place, FOLDER)
    temporary = "%s.%s" % (folder, os.urandom(6).hex())
    os.mkdir(temporary, 0o700)
    try:
        for name, content in files.items():
            write(os.path.join(temporary, name), content)
        with open(os.path.join(temporary, "psik.py"), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest()[:16] != HASH:
                raise OSError("%s: what came is not what was sent" % place)
        if os.path.lexists(folder) and not find():
            os.rename(folder, temporary + ".old")   # it lacks something
        with suppress(OSError):      # another call was first
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary + ".old", ignore_errors=True)
    if not find():
        raise OSError("%s cannot be made" % folder)
    return folder


def drop_old(place):
    """Remove the copies that have not been used for long."""
    import shutil
    for name in os.listdir(place):
        folder = os.path.join(place, name)
        is_copy = len(name) >= 16 and set(name[:16]) <= set("0123456789abcdef")
        with suppress(OSError):
            if is_copy and os.lstat(folder).st_mtime < time.time() - KEEP_S:
                shutil.rmtree(folder)


def receive():
    """Ask for psik.py, and keep it; its folder, None if it can be kept nowhere."""
    tell("want " + " ".join(NAMES))
    files, why = {name: read_sized() for name in NAMES}, ""
    for place in places():
        try:
            folder = keep(files, place)
        except OSError as err:
            why += "; " * bool(why) + str(err)
        else:
            drop_old(place)
            return folder
    tell("full " + why)


def touch(folder):
    """Note once a day that a copy is used, and remove those that are not."""
    with suppress(OSError):     # of a home that is full, or cannot be written to now
        if time.time() - os.stat(folder).st_mtime > 86400:
            for path in [folder] + [os.path.join(folder, name) for name in NAMES]:
                os.utime(path)
            drop_old(os.path.dirname(folder))


def begin_with_utf8():
    """Let Python 3.6 take names of files as UTF-8, as later ones do where no locale is set."""
    if len(NAMES) > 1 and sys.getfilesystemencoding() != "utf-8" and "PSIK_AGAIN" not in os.environ:
        os.environ.update(LC_ALL="C.UTF-8", PSIK_AGAIN="")
        os.execv(sys.executable, [sys.executable, "-ISc", BEGIN] + sys.argv[1:])
    if os.environ.pop("PSIK_AGAIN", None) is not None:
        os.environ.pop("LC_ALL")


def main():
    begin_with_utf8()
    request = read_sized()
    folder = find() or receive()
    if not folder:
        return 1
    touch(folder)
    sys.path.append(folder)
    sys.argv[:] = ["psik.py"]
    try:
        import psik
    except (EOFError, ValueError, TypeError):   # on a full disk Python cuts the compiled file
        import shutil
        shutil.rmtree(os.path.join(folder, "__pycache__"))
        sys.dont_write_bytecode = True
        import psik
    return psik.main_for(request, MARK)


sys.exit(main())
