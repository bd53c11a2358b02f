"""Signals to real training processes, at a step."""

import time


def stop(process, workdir, number, step, pause):
    """Sends a signal once the state of a step has been saved, and a little later."""
    newest = lambda: max((int(path.name) for path in (workdir / "state").glob("*") if path.name.isdigit()), default=-1)
    while newest() < step and process.poll() is None:
        time.sleep(0.001)
    time.sleep(pause)
    process.send_signal(number)
    return process.communicate(timeout=300)
