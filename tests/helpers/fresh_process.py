"""``@pytest.mark.fresh_process``: a test runs in a copy of this process that was made before the first test.

A second device must be registered before the first backward pass of a process, and a process with one cannot be copied
any more after a backward pass; other tests want to do both. The copy has imported everything, which takes a new process
seconds. Its reports are those of any other test.
"""

import gc
import multiprocessing
import os
import pickle

import pytest
from _pytest import runner

COPIES = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    """Make the copy that is copied again for each test; it sees the collected tests and has run none."""
    marked = {item.nodeid: item for item in getattr(session, "items", ()) if item.get_closest_marker("fresh_process")}
    if not marked:
        return (yield)
    import torch._dynamo  # noqa: F401 what a first step of training imports, for seconds

    session.config._tmp_path_factory.getbasetemp()  # the same for all copies
    here, there = multiprocessing.Pipe()
    first = os.fork()
    if not first:
        gc.collect()
        gc.freeze()  # copies would look through all that has been imported, and so copy its memory
        here.close()
        serve(there, marked)
    there.close()
    session.config.stash[COPIES] = here
    try:
        return (yield)
    finally:
        here.close()
        os.waitpid(first, 0)


def serve(connection, items):
    """Run the tests that are asked for, each in a process of its own, until nobody asks any more."""
    while True:
        try:
            item = items[connection.recv()]
        except EOFError:
            os._exit(0)
        if not (process := os.fork()):
            run_and_report(connection, item)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code:
            connection.send(code)


def run_and_report(connection, item):
    hook = item.config.hook
    reports = runner.runtestprotocol(item, log=False, nextitem=None)
    plain = [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
    connection.send_bytes(pickle.dumps(plain))
    os._exit(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    connection = item.config.stash.get(COPIES, None)
    if connection is None or not item.get_closest_marker("fresh_process"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    connection.send(item.nodeid)
    answer = connection.recv()
    if isinstance(answer, int):
        call = runner.CallInfo.from_call(lambda: pytest.fail(f"the process of this test ended with {answer}"), "call")
        reports = [item.ihook.pytest_runtest_makereport(item=item, call=call)]
    else:
        reports = [item.config.hook.pytest_report_from_serializable(config=item.config, data=data) for data in answer]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    runner.pytest_runtest_teardown(item, nextitem)  # what the test before has left for this one
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
