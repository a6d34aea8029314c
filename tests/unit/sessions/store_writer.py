"""A client's worth of SQLite: random transactions on two connections, until it is killed.

`python -I store_writer.py <path> <seed> <checkpoint after so many frames>`; does so many
transactions as each line of its input says, and answers when they are done.
"""

import random
import sqlite3
import sys

TABLES = ("sessions", "keys", "contacts")
INSERT = "insert into {} (v) values (?)"
UPDATE = "update {0} set v = ? where id = (select id from {0} where id >= ? limit 1)"
DELETE = "delete from {} where id % 97 = ?"
READ = "select sum(length(v)) from {}"


def connect(path: str, checkpoint_frames: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5)
    db.execute("pragma synchronous = normal")
    db.execute(f"pragma wal_autocheckpoint = {checkpoint_frames}")
    return db


def value(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((8, 32, 200, 700, 700, 3000, 9000)))


def write(db: sqlite3.Connection, dice: random.Random) -> None:
    table = dice.choice(TABLES)
    match dice.randrange(10):
        case 0 | 1 | 2 | 3:
            db.execute(INSERT.format(table), (value(dice),))
        case 4 | 5 | 6:
            db.execute(UPDATE.format(table), (value(dice), dice.randrange(400)))
        case 7 | 8:
            db.execute(DELETE.format(table), (dice.randrange(97),))
        case 9:
            db.execute(READ.format(table)).fetchone()


def transaction(db: sqlite3.Connection, dice: random.Random) -> None:
    kind = dice.randrange(40)
    if kind < 25:
        write(db, dice)
        return
    # SQLite before 3.46 loses the checksums of frames that left a small cache and were rolled back
    # to a savepoint, so the two are not combined: the log would really be damaged.
    db.execute(f"pragma cache_size = {-2000 if kind < 36 else 5}")
    db.execute("begin immediate")
    if kind < 36:
        db.execute("savepoint halfway")
        for _ in range(dice.randrange(1, 6)):
            write(db, dice)
        if kind == 34:
            db.execute("rollback to halfway")
            write(db, dice)
    else:  # more than the cache holds: frames go to the log before it is known how it ends
        for _ in range(dice.randrange(10, 30)):
            write(db, dice)
    db.execute("rollback" if kind in (35, 38) else "commit")


def main() -> None:
    path, seed, checkpoint_frames = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)  # noqa: S311 - a plan to be repeated
    pool = [connect(path, checkpoint_frames) for _ in range(2)]
    for table in TABLES:
        pool[0].execute(f"create table if not exists {table} (id integer primary key, v blob)")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        for _ in range(int(line)):
            db, other = dice.sample(pool, 2)
            reads = dice.random() < 0.05
            if reads:  # a reader holds the log back for a while
                other.execute("begin")
                other.execute("select count(*) from keys").fetchone()
            transaction(db, dice)
            if reads:
                other.execute("commit")
        if dice.random() < 0.01:
            pool[0].execute("vacuum")
        sys.stdout.write("done\n")
        sys.stdout.flush()


main()
