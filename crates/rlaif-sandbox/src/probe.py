# Every attempt must fail.
import ctypes, os, socket, subprocess, sys


def could(what, attempt):
    try:
        attempt()
    except BaseException:
        return
    print(what)
    sys.exit()


could("start a process", os.fork)
could("start a program", lambda: subprocess.run([sys.executable, "-c", ""], check=True))
could("open a socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
could("open a local socket", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
could("list /", lambda: os.listdir("/"))
could("list the home folder", lambda: os.listdir(os.path.expanduser("~")))
could("read /etc/passwd", lambda: open("/etc/passwd").read())
could("read /proc", lambda: open("/proc/%d/environ" % os.getppid()).read())
could("write a file", lambda: open("/tmp/rlaif-probe-%d" % os.getpid(), "w"))
could("send a signal", lambda: os.kill(os.getppid(), 0))
could("make memory outside its own", lambda: os.memfd_create("probe"))
print("confined")
