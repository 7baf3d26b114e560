"""Bodies of every shape for the interrupt to land in: shared by the stress program and the tests.

Each takes a `Record`, a scope to enter, and how often to go round. `violations(record)` tells what was left undone.
Written in many styles on purpose: what matters is the bytecode, so do not reformat.
"""

# ruff: noqa  # the whole file: see above
# fmt: off
import contextlib
import functools
import inspect
import io
import logging
import queue
import threading
import types

log = logging.getLogger("interrupt-shapes")
log.propagate = False
log.addHandler(logging.StreamHandler(io.StringIO()))


class Record:
    """What a body records."""
    def __init__(self):
        self.lock = threading.Lock(); self.rlock = threading.RLock(); self.pylock = threading._PyRLock()
        self.cond = threading.Condition()
        self.entered = 0; self.fin = 0; self.cm_in = 0; self.cm_out = 0; self.n = 0; self.bad=[]
        self.q = queue.Queue()
class CM:
    def __init__(self, c): self.c = c
    def __enter__(self):
        self.c.cm_in += 1
        x = 1
        return self
    def __exit__(self, *a):
        x = 1
        self.c.cm_out += 1
        y = 2
        return False
@contextlib.contextmanager
def gcm(c):
    c.cm_in += 1
    try:
        yield
    finally:
        x = 1
        c.cm_out += 1
        x = 2
def b_tight(c, s, N):
    with s:
        for i in range(N):
            c.n += 1
def b_while_oneline(c, s, N):
    it = iter(range(N))
    with s:
        while next(it, None) is not None: pass
def b_oneline_for(c, s, N):
    with s:
        for i in range(N): c.n += 1
def b_nested_with(c, s, N):
    with s:
        for i in range(N):
            with c.lock:
                c.n += 1
            with c.rlock, c.lock:
                c.n += 1
            with CM(c) as q:
                with c.pylock:
                    c.n += 1
def b_outer_with(c, s, N):
    with CM(c):
        with s:
            for i in range(N):
                with CM(c):
                    c.n += 1
        c.n += 1
def b_same_with(c, s, N):
    with CM(c), s, CM(c):
        for i in range(N):
            c.n += 1
def b_multiline_with(c, s, N):
    with (
        s,
        CM(
            c
        ),
        c.lock,
    ):
        for i in range(N):
            with (
                CM(c) as x,
                CM(c) as y,
            ):
                c.n += 1
def b_finally(c, s, N):
    with s:
        for i in range(N):
            c.entered += 1
            try:
                c.n += 1
                c.n += 1
            finally:
                c.fin += 1
                c.n += 1
def b_finally2(c, s, N):
    with s:
        for i in range(N):
            c.lock.acquire()
            try:
                c.n += 1
            finally:
                c.lock.release()
def b_finally_cond(c, s, N):
    with s:
        for i in range(N):
            if not c.lock.acquire(
                timeout=5
            ):
                raise RuntimeError
            try:
                c.n += 1
                if i % 2: continue
                c.n += 1
            finally:
                if i % 3:
                    c.lock.release()
                else:
                    for _ in range(1):
                        c.lock.release()
def ret(c, i):
    c.lock.acquire()
    try:
        with CM(c):
            with c.rlock:
                if i % 2: return c.n + i
                return (
                    c.n
                    + 1
                )
    finally:
        c.lock.release()
def b_return(c, s, N):
    with s:
        for i in range(N):
            ret(c, i)
def lret(c, i):
    for k in range(4):
        with CM(c):
            try:
                with gcm(c):
                    if k == 1: continue
                    if k == 2: break
                    c.n += 1
            except ValueError:
                c.n += 1
            else:
                c.n += 2
            finally:
                c.n += 1
    return k
def b_breakcont(c, s, N):
    with s:
        for i in range(N):
            lret(c, i)
def b_comp(c, s, N):
    with s:
        for i in range(max(1, N // 4)):
            x = [c.n for _ in range(4)]
            y = {k: [j for j in range(2)] for k in range(3)}
            z = sum(k + c.n for k in range(4))
def gen(c, N):
    with CM(c):
        for i in range(N):
            try:
                c.entered += 1
                try:
                    yield i
                finally:
                    c.fin += 1
            except ValueError:
                pass
def b_gen(c, s, N):
    with s:
        g = gen(c, N)
        try:
            for i in g:
                c.n += 1
        finally:
            g.close()
def b_gcm(c, s, N):
    with s:
        for i in range(N):
            with gcm(c):
                c.n += 1
def rec(c, d):
    if d <= 0: return 0
    with CM(c):
        return rec(c, d - 1) + 1
def b_rec(c, s, N):
    with s:
        for i in range(N):
            rec(c, 3)
def work(c): c.n += 1
def b_exc(c, s, N):
    with s:
        i = 0
        while i < N:
            i += 1
            try:
                work(c)
                raise ValueError
            except Exception:
                c.n += 1
def b_bare(c, s, N):
    with s:
        i = 0
        while i < N:
            i += 1
            try: work(c)
            except: pass
def b_bare2(c, s, N):
    with s:
        it = iter(range(N * 20))
        while True:
            try:
                if next(it, None) is None: return
                work(c)
            except:
                pass
def b_logging(c, s, N):
    with s:
        for i in range(N):
            log.warning("x %s", i)
            c.q.put(i); c.q.get()
            with c.cond:
                c.cond.notify_all()
def b_fstring(c, s, N):
    with s:
        for i in range(N):
            x = f"{i} {c.n!r:>10} {i + 1}"
            y = "a" if i % 2 else f"{x}"
def b_import(c, s, N):
    with s:
        for i in range(N):
            import colorsys, json
            from os import path
def b_ccall(c, s, N):
    with s:
        for i in range(N):
            sorted([3, 1, 2], key=lambda v: (work(c), v)[1])
            list(map(work, [c, c]))
            functools.reduce(lambda a, b: a + b, range(4))
class Prop:
    def __init__(self, c): self.c = c
    @property
    def p(self):
        with self.c.lock:
            return self.c.n
    def __add__(self, o):
        self.c.lock.acquire()
        try:
            return self
        finally:
            self.c.lock.release()
    def __del__(self):
        if not hasattr(self, 'c'): return
        with self.c.lock:
            self.c.n += 1
        self.c.n += 1
    def __bool__(self):
        with CM(self.c): return True
def b_dunder(c, s, N):
    with s:
        for i in range(N):
            p = Prop(c)
            p.p
            q = p + p
            if p and q: c.n += 1
            p = q = None
def b_exceptas(c, s, N):
    with s:
        for i in range(N):
            try:
                try:
                    with CM(c):
                        raise KeyError(i)
                except ValueError as e:
                    c.n += 1
                finally:
                    c.n += 1
            except KeyError as e2:
                c.n += 1
                with c.lock:
                    c.n += 1
def b_matchwhile(c, s, N):
    with s:
        i = 0
        while (i := i + 1) < N and c.n >= 0:
            match i % 3:
                case 0:
                    with c.lock: c.n += 1
                case 1:
                    c.lock.acquire()
                    try: c.n += 1
                    finally: c.lock.release()
                case _:
                    assert c.n is not None, (
                        "x"
                    )
def b_pass(c, s, N):
    with s:
        i = 0
        while (i := i + 1) < N: pass
async def coro(c):
    with CM(c):
        c.n += 1
        async with ACM(c):
            c.n += 1
    return 1
class ACM:
    def __init__(self, c): self.c = c
    async def __aenter__(self): self.c.cm_in += 1
    async def __aexit__(self, *a): self.c.cm_out += 1
def b_coro(c, s, N):
    with s:
        for i in range(N):
            try:
                coro(c).send(None)
            except StopIteration:
                c.n += 1
def b_finret(c, s, N):
    def f(i):
        c.entered += 1
        try:
            with c.lock:
                while True:
                    i += 1
                    if i > 5: return i
        finally:
            c.fin += 1
            for k in range(2): c.n += 1
    with s:
        for i in range(N):
            f(i)
            f(
                i
            )
def b_nestfin(c, s, N):
    with s:
        for i in range(N):
            c.entered += 1
            try:
                try:
                    c.cm_in += 1
                    try: c.n += 1
                    finally: c.cm_out += 1
                finally:
                    try:
                        c.n += 1
                        raise ValueError
                    except ValueError: pass
                    else: c.n += 1
            finally:
                c.fin += 1
def b_group(c, s, N):
    with s:
        for i in range(N):
            try:
                with c.lock:
                    raise ExceptionGroup("x", [ValueError(1), KeyError(2)])
            except* ValueError as e:
                c.n += 1
            except* KeyError:
                c.n += 1
            finally:
                c.n += 1
def b_method_chain(c, s, N):
    with s, c.cond:
        for i in range(N):
            (c
             .q
             .put(i))
            x = [c.q.get()
                 for _ in range(1)
                 if c.n >= 0]
    c.n += 1
def b_acquire_condition(c, s, N):
    with s:
        i = 0
        while c.lock.acquire(timeout=5):
            try:
                work(c)
            finally:
                c.lock.release()
            if (i := i + 1) >= N: break
            work(c)
def b_acquire_walrus(c, s, N):
    with s:
        for i in range(N):
            while not (got := c.lock.acquire(False)):
                work(c)
            work(c)
            try: work(c)
            finally: c.lock.release()
            if got and c.rlock.acquire(): work(c); c.rlock.release()
            work(c)
def b_acquire_no_try(c, s, N):
    with s:
        for i in range(N):
            c.lock.acquire()
            work(c)
            with CM(c): work(c)
            try: work(c)
            except ValueError: pass
            c.lock.release()
            work(c)
def b_acquire_at_the_end(c, s, N):
    with s:
        c.lock.acquire()
        i = 0
        while True:
            try:
                work(c)
            finally:
                c.lock.release()
            if (i := i + 1) >= N: break
            work(c)
            c.lock.acquire()
def b_try_while_true(c, s, N):
    with s:
        for k in range(N):
            i = 0
            c.entered += 1
            try:
                while True:
                    work(c)
                    if (i := i + 1) >= N: break
            finally:
                c.fin += 1
            c.lock.acquire()
            try:
                while True:
                    if (i := i + 1) >= N: break
                    c.n += 1
            finally:
                c.lock.release()
def two(c, a): c.n += 1
def three(c, a, b): c.n += 1
async def counted(n):
    for i in range(n): yield i
def drive(coroutine):
    try: coroutine.send(None)
    except StopIteration: pass
def b_async_with(c, s, N):
    async def body():
        with s:
            for i in range(N):
                async with ACM(c):
                    two(c, i)      # as many arguments as the call of __aexit__ has, before 3.14
                    three(c, i, i) # and since
                    two(c, i)
                three(c, i, i)
                two(c, i)
    drive(body())
def b_async_for(c, s, N):
    async def body():
        with s:
            while c.n < 9 * N:
                async for x in counted(2): c.n += 1
                async with ACM(c):
                    two(c, x); three(c, x, x); two(c, x); three(c, x, x); two(c, x)
                    two(c, x); three(c, x, x); two(c, x); three(c, x, x); two(c, x)
                    three(c, x, x)
                    two(c, x)
                    three(c, x, x)
                    two(c, x)
                async with ACM(c):
                    two(c, x)
    drive(body())
def b_take_at_the_end(c, s, N):
    take = c.lock.acquire; give = c.lock.release; held = False
    with s:
        i = 0
        while True:
            try:
                work(c)
            finally:
                if held: give()
                held = False
            if (i := i + 1) >= N: break
            if not (held := take()): break
class Box:
    def __init__(self, c): self.c = c
    def begin(self):
        self.c.cm_in += 1
        self.c.n += 1
    def end(self, *a):
        self.c.n += 1
        self.c.cm_out += 1
    __enter__, __exit__ = begin, end
def b_with_by_another_name(c, s, N):
    with s:
        for i in range(N):
            with Box(c):
                three(c, i, i)
                if i % 2: continue
                two(c, i)
            three(c, i, i)


def finalisers():
    """The threads that let go of frames somebody looked at, and so run the finalisers of what those held."""
    return [thread for thread in threading.enumerate() if thread.name == "threadsafe-timeout-finaliser"]
def left_held(lock):
    """Whether a lock was left held. A finaliser of what the body held may have it for a moment, and is waited for."""
    while lock.locked():
        running = finalisers()
        for thread in running:
            thread._started.wait(60)  # one that is being started is listed already, and cannot be joined yet
            thread.join(60)
        if any(thread.is_alive() for thread in running): return True
        if not running and lock.locked(): return True
    return False
def violations(c):
    """What the interrupt left undone or did twice."""
    bad = []
    if left_held(c.lock): bad.append("lock held")
    if c.rlock._is_owned(): bad.append("rlock held")
    if c.pylock._is_owned(): bad.append("pylock held")
    if c.cond._is_owned(): bad.append("cond held")
    if c.q.mutex.locked(): bad.append("queue mutex")
    if c.entered != c.fin: bad.append(f"finally {c.entered} {c.fin}")
    if c.cm_in != c.cm_out: bad.append(f"cm {c.cm_in} {c.cm_out}")
    for h in log.handlers:
        if h.lock is not None and h.lock._is_owned(): bad.append("log lock")
    return bad


IN_COROUTINES = {"async_for", "async_with"}  # those whose scope is entered in a coroutine
BODIES = {name[2:]: body for name, body in globals().items() if name.startswith("b_")}


def code_objects():
    """Every function in this file, inner ones too."""
    found = []

    def add(code):
        found.append(code)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                add(constant)

    for value in list(globals().values()):
        if inspect.isfunction(value) and value.__module__ == __name__:
            add(inspect.unwrap(value).__code__)
        elif inspect.isclass(value) and value.__module__ == __name__:
            for method in vars(value).values():
                method = getattr(method, "fget", method)
                if hasattr(method, "__code__"):
                    add(method.__code__)
    return found
