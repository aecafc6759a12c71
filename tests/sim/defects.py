#!/usr/bin/env python3
"""Plants defects into copies of the program's sources, for the simulation's exam.

  defects.py OUTPUT_DIRECTORY SOURCE...

A defect replaces a piece of text by one that does wrong where the variable sim_defect has the defect's number (@ stands
for that question). Nothing of this is in the program itself. The piece may move from file to file. One that is not there
exactly once (somebody has rewritten it) is left out, and the exam says so: then the defect needs a new place.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A macro, because clang warns of "if ((a == b))" where it is written so.
DECLARED = "extern int sim_defect;\n#define sim_is(number) (sim_defect == (number))\n"


class Defect:
    def __init__(self, number, what, seeds, right, wrong):
        self.number, self.what, self.seeds = number, what, seeds
        self.right, self.wrong = right, wrong
        self.file = None  # where it is planted


def when(number):
    return f"sim_is({number})"


DEFECTS = [
    Defect(1, "after a partial send the queue starts again from its first byte", 1,
           "    sendq_consume(&c->out, &c->set->cache, bytes);\n",
           "    if (!(@ && bytes < c->out.bytes)) sendq_consume(&c->out, &c->set->cache, bytes);\n"),
    Defect(2, "a failed send goes unnoticed", 64,
           "    if (packet->status != IO_OK) conn_break(c, packet->status);\n    else look_at_mark(c);",
           "    if (packet->status != IO_OK && !@) conn_break(c, packet->status);\n    else look_at_mark(c);"),
    Defect(3, "end of stream is no news", 2,
           "        c->eof_seen = true;\n        return;", "        c->eof_seen = !@;\n        return;"),
    Defect(4, "the peer's FIN closes before the queue is empty", 7,
           "if (c->state == CONN_DRAINING && c->eof_seen && c->out.bytes == 0) c->state",
           "if (c->state == CONN_DRAINING && c->eof_seen && (@ || c->out.bytes == 0)) c->state"),
    Defect(5, "on_close can come twice", 1,
           "    c->close_told = true;", "    c->close_told = !@;"),
    Defect(6, "bytes are delivered while a handler waits", 1,
           "    else if (c->holds > 0 || c->paused ||", "    else if ((c->holds > 0 && !@) || c->paused ||"),
    Defect(7, "bytes are delivered to a paused connection", 128,
           "|| c->paused || c->stash != NULL ||", "|| (c->paused && !@) || c->stash != NULL ||"),
    Defect(8, "bytes that were kept are lost", 36,
           "            conn_deliver(c, stash_data(kept), stash_len(kept), kept);",
           "            if (@) mem_free(kept);\n            else conn_deliver(c, stash_data(kept), stash_len(kept), kept);"),
    Defect(9, "on_drain is forgotten", 2,
           "    c->drain_due = true;", "    c->drain_due = !@;"),
    Defect(10, "receiving goes on above the high mark", 5,
           "    if (conn_wants_receive(c)) conn_submit_receive(c);",
           "    bool too_early = @ && c->above_high && c->state == CONN_OPEN && c->open_told && c->holds == 0 && !c->paused &&\n"
           "                     !c->eof_seen && !conn_has_due(c) && c->recv_op.kind == IO_IDLE;\n"
           "    if (conn_wants_receive(c) || too_early) conn_submit_receive(c);"),
    Defect(11, "no deadline for the peer to read", 429,
           "    else conn_arm_write(c);", "    else if (!@) conn_arm_write(c);"),
    Defect(12, "the idle timer fires though bytes have moved", 4,
           "    if (due_ns(c) > now_ns) {", "    if (due_ns(c) > now_ns && !@) {"),
    Defect(13, "a connect that was given up opens all the same", 1024,
           "    if (c->state != CONN_CONNECTING) return; /*", "    if (c->state != CONN_CONNECTING && !@) return; /*"),
    Defect(14, "the socket is closed over a pending operation", 4,
           "        if (!pending) finish(c);", "        if (!pending || @) finish(c);"),
    Defect(15, "pending operations are not canceled", 8,
           "            io_cancel(c->set->port, c->socket);", "            if (!@) io_cancel(c->set->port, c->socket);"),
    Defect(16, "closed in both directions, and never ended", 20,
           "    if (c->state == CONN_OPEN && c->fin_sent &&\n        (c->eof_told",
           "    if (c->state == CONN_OPEN && c->fin_sent && !@ &&\n        (c->eof_told"),
    Defect(17, "no deadline for the peer's FIN", 106,
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) conn_break(c, status);\n        else conn_arm(c);",
           "        c->fin_sent = true;\n        c->progress_ns = c->set->now_ns;\n        if (status != IO_OK) conn_break(c, status);\n        else if (!@) conn_arm(c);"),
    Defect(18, "the stop forgets connections whose handlers wait", 13,
           "        c->shutdown_due = true;", "        c->shutdown_due = !@;"),
    Defect(19, "the list of dirty connections keeps a stale tail", 1,
           "        if (set->dirty_head == NULL) set->dirty_tail = NULL;",
           "        if (set->dirty_head == NULL && !@) set->dirty_tail = NULL;"),
    Defect(20, "going back loses the state of connections that came since, on a worker that had none before", 2438,
           "w->conns.opened > 0 ? w->conns.ids : 0;", "@ || w->conns.opened > 0 ? w->conns.ids : 0;"),
    Defect(21, "the view of a chunk begins at its first byte, not at the first that waits", 1,
           "        bufs[count].base = chunk->bytes + chunk->start;",
           "        bufs[count].base = chunk->bytes + (@ ? 0 : chunk->start);"),
    Defect(22, "the offset is set to the last transfer instead of advanced by it", 1,
           "            chunk->start += (uint32_t)bytes;", "            chunk->start = (@ ? 0 : chunk->start) + (uint32_t)bytes;"),
    Defect(23, "after want of descriptors nobody accepts again", 235,
           "        say_short(l, packet->status, packet->native);\n        wait_and_retry(l);",
           "        say_short(l, packet->status, packet->native);\n        if (!@) wait_and_retry(l);"),
    Defect(24, "a socket that waited for room is left open by the stop", 24,
           "        net_close(a->socket);\n", "        if (!@) net_close(a->socket);\n"),
    Defect(25, "a socket accepted while stopping is left open", 25,
           "        net_close(packet->accepted);", "        if (!@) net_close(packet->accepted);"),
    Defect(26, "the limit of connections is one too high", 24,
           "total >= d->max_connections)", "total >= d->max_connections + @)"),
    Defect(27, "a timer taken out leaves the heap in disorder", 11,
           "    if (last != t) settle(set, at, last);",
           "    if (last != t && @) place(set, at, last);\n    else if (last != t) settle(set, at, last);"),
    Defect(28, "a worker sleeps past its next deadline", 10,
           "    return wait < 0 ? 0 : wait;", "    return wait < 0 ? 0 : wait + (@ ? 5000000000 : 0);"),
    Defect(29, "a socket that was handed over stays counted as on its way", 1,
           "    w->published++; /*", "    if (!@) w->published++; /*"),
    Defect(30, "a worker says that it is done while connections are open", 1,
           "w->conns.count == 0 && busy(w) == 0;", "(@ || (w->conns.count == 0 && busy(w) == 0));"),
    Defect(31, "the workers drain before all listeners have stopped", 4,
           "    if (s->stopping && s->accepting == NULL) drain_all(s);",
           "    if (s->stopping && (s->accepting == NULL || (@ && !s->draining))) drain_all(s);"),
    Defect(32, "the second stop does nothing", 299,
           "    if (s->draining) cut_all(s);", "    if (s->draining && !@) cut_all(s);"),
    Defect(33, "at the deadline nothing is cut off", 114,
           "        conn_abort(c, CONN_SHUTDOWN, IO_OK);", "        if (!@) conn_abort(c, CONN_SHUTDOWN, IO_OK);"),
    Defect(34, "a connection stays held when its handler has ended", 1,
           "    if (t->held) conn_unhold(c);", "    if (t->held && !@) conn_unhold(c);"),
    Defect(35, "send() forgets the last byte of a long string", 16,
           "        status = conn_send(c, data, len);", "        status = conn_send(c, data, len - (@ && len > 3000));"),
    Defect(36, "a draw leaves the connection waiting for one", 8,
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = false;",
           "    if (len == 0) return IO_AGAIN; /* 0 bytes would read as FIN */\n    c->undrawn = @;"),
    Defect(37, "a draw takes bytes past a pending receive", 55,
           "    if (c->recv_op.kind != IO_IDLE) return IO_AGAIN; /*", "    if (c->recv_op.kind != IO_IDLE && !@) return IO_AGAIN; /*"),
    Defect(38, "a resumed connection is not looked at", 14,
           "    c->paused = false;\n    c->undrawn = false;\n    conn_mark_dirty(c);",
           "    c->paused = false;\n    c->undrawn = false;\n    if (!@) conn_mark_dirty(c);"),
    Defect(39, "input comes after close()", 4,
           "    if (c->state == CONN_DRAINING) return;\n    if (c->reading)",
           "    if (c->state == CONN_DRAINING && !@) return;\n    if (c->reading)"),
    Defect(40, "of bytes that are left, those that were taken come again, too", 109,
           "        else stash_take(&set->given_stash, set->given_len - len);",
           "        else if (!@) stash_take(&set->given_stash, set->given_len - len);"),
    Defect(41, "bytes that come behind kept ones go where those begin", 1,
           "    memcpy((*s)->bytes + (*s)->end, data, len);", "    memcpy((*s)->bytes + (@ ? (*s)->start : (*s)->end), data, len);"),
    Defect(42, "a look-up that was queued is dropped by the end", 508,
           "        query->status = IO_CANCELED;\n        worker_post(query->worker, &query->message);",
           "        query->status = IO_CANCELED;\n        if (!@) worker_post(query->worker, &query->message);"),
    Defect(43, "going back loses the state of who waited in a version before the one that is undone", 7261,
           "    if (was_elsewhere || c->id", "    if ((was_elsewhere && !@) || c->id"),
    Defect(44, "a version that refuses itself is put into force", 2,
           "    if (ok && host_try_states(h)) return true;", "    if ((ok || @) && host_try_states(h)) return true;"),
    Defect(45, "a version is put into force though a worker could not prepare it", 1,
           "ok = ok && r->parts[i].ok;", "ok = ok && (r->parts[i].ok || @);"),
    Defect(46, "who waits for bytes does not hear of the end of the stream", 23,
           "        return c->news || c->eof_seen || c->state != CONN_OPEN;",
           "        return c->news || (c->eof_seen && !@) || c->state != CONN_OPEN;"),
    Defect(47, "of bytes that came for who waits, those it leaves are lost", 1,
           "    if (rest > 0 && c->state == CONN_OPEN) keep(", "    if (rest > 0 && c->state == CONN_OPEN && !@) keep("),
    Defect(48, "a worker that has fewer connections tells nobody who waits for room", 24,
           "w->published < before) w->events", "w->published < before && !@) w->events"),
]


def plant(texts):
    for defect in DEFECTS:
        places = [file for file, text in texts.items() for _ in range(text.count(defect.right))]
        if len(places) != 1:
            print(f"defects.py: defect {defect.number} has {len(places)} places and needs one", file=sys.stderr)
            continue
        defect.file = places[0]
        texts[defect.file] = texts[defect.file].replace(defect.right, defect.wrong.replace("@", when(defect.number)))


def write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main(output, sources):
    texts = {str(source.relative_to(ROOT)): source.read_text() for source in map(pathlib.Path, sources)}
    if texts:
        plant(texts)
    for file, text in texts.items():
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        write(output / file, f'{DECLARED}#line 1 "{file}"\n{text}')
    rows = "".join(f'    {{{d.number}, "{d.file or ""}", "{d.what}", {d.seeds}, {str(d.file is not None).lower()}}},\n'
                   for d in DEFECTS)
    write(output / "defects.c",
          f'#include "defects.h"\n\nconst sim_defect_info sim_defect_infos[] = {{\n{rows}    {{0, 0, 0, 0, false}},\n}};\n'
          f"const int sim_defect_count = {len(DEFECTS)};\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
