"""priority.py - which of the processes on this machine runs first, and processors that do not fall asleep."""
import contextlib
import os
import subprocess
import sys

from pace import dawdle

AUTOGROUP = "/proc/%s/autogroup" # where sessions share the processors, nice counts within each only: sched(7)
SPINNER = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def set_nice(value, pid=0):
    """For this process (0) or another one, and those that it starts; it has to lead a session of its own. Raises OSError."""
    os.setpriority(os.PRIO_PROCESS, pid, value)
    path = AUTOGROUP % (pid or "self")
    for left in reversed(range(20)) if os.path.exists(path) else ():
        try:
            with open(path, "w") as f:
                f.write(str(value))
            return
        except BlockingIOError:  # without privileges the whole system may do that ten times a second
            if not left:
                raise
            dawdle(0.1, "its ten times a second")


def go_first(pid=0):
    set_nice(-20, pid)


def begin(first):
    """For a new process: a session of its own, with first before everything else that runs here."""
    os.setsid()
    if first:
        go_first()


def may_go_first():
    """The reason why not, or None."""
    done = subprocess.run([sys.executable, "-c", "import priority; priority.go_first()"], capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)), start_new_session=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


@contextlib.contextmanager
def awake(cores):
    """Each processor has something to do that gives way to everything else: to wake one that sleeps takes long, above all in a virtual
    machine, and a client and a server that wait for each other would measure just that."""
    def child(core):
        os.setsid()
        os.sched_setaffinity(0, [core])
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        set_nice(19)
    spinners = [subprocess.Popen([sys.executable, "-c", SPINNER], preexec_fn=lambda core=core: child(core)) for core in cores]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
