"""Time in tests. Who waits for something asks until(); who lets time pass says why with dawdle(). Nothing else in tests/ sleeps."""

import time


def until(condition, seconds, what, error=AssertionError):
    """Asks again and again until the answer is true, and returns it; raises the error when it is not in that many seconds."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise error(f"{what} did not come in {seconds:g} s")
        time.sleep(0.005)


def dawdle(seconds, why):
    """Lets time pass: a peer is slow, a moment is drawn, a span is measured over. why is for who reads the call."""
    assert why
    time.sleep(seconds)
