"""Work in threads: its queue, its time, its end."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
import torch

from echoic.web.work import BusyError, GoneError, OverdueError, Work, go_on, watch


@pytest.fixture
def work():
    made = Work("test", threads=1, at_once=2, limit_s=30)
    yield made
    made.close()


def busily(begun: threading.Event) -> None:
    """Works until it should no more."""
    begun.set()
    while True:
        go_on()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_is_returned_and_raised_comes_back(work):
    async def run():
        assert await work.do(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            await work.do(lambda: 1 / 0)
        await until(lambda: work.held == 0)

    asyncio.run(run())


def test_who_comes_to_a_full_queue_is_told_at_once(work):
    async def run():
        begun = threading.Event()
        first = asyncio.create_task(work.do(lambda: busily(begun)))
        second = asyncio.create_task(work.do(lambda: 2))
        await until(begun.is_set)
        with pytest.raises(BusyError):
            await work.do(lambda: 3)
        first.cancel()
        assert await second == 2

    asyncio.run(run())


def test_what_is_overdue_ends_and_the_next_begins():
    async def run():
        work = Work("test", threads=1, at_once=2, limit_s=0.2)
        with pytest.raises(OverdueError):
            await work.do(lambda: busily(threading.Event()))
        await until(lambda: work.held == 0)
        work.limit_s = 30
        assert await work.do(lambda: 2) == 2
        work.close()

    asyncio.run(run())


def test_what_nobody_waits_for_ends_without_a_word(work, caplog):
    async def run():
        async def gone():
            return True

        with pytest.raises(GoneError):
            await work.do(lambda: busily(threading.Event()), gone)
        await until(lambda: work.held == 0)

    asyncio.run(run())
    gc.collect()
    assert caplog.records == []


def test_what_was_given_up_before_it_began_is_not_done(work):
    async def run():
        begun, done = threading.Event(), []
        first = asyncio.create_task(work.do(lambda: busily(begun)))
        await until(begun.is_set)
        second = asyncio.create_task(work.do(lambda: done.append(1)))
        await until(lambda: work.held == 2)
        second.cancel()
        first.cancel()
        await until(lambda: work.held == 0)
        assert done == []

    asyncio.run(run())


def test_a_watched_network_ends_between_its_layers():
    layers = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(3)])

    async def run():
        work = Work("test", threads=1, at_once=1, limit_s=0.2)

        def forever():
            with torch.no_grad():
                while True:
                    layers(torch.zeros(1, 2))

        with pytest.raises(OverdueError):
            await work.do(forever)
        await until(lambda: work.held == 0)
        work.close()

    with watch(layers):
        asyncio.run(run())
    assert not layers._forward_pre_hooks
    assert not layers[0]._forward_pre_hooks
