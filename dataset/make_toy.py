"""Write dataset/toy: 60 users who walk round a ring of 40 items and sometimes jump.

    python dataset/make_toy.py [FOLDER]     (default: the folder toy beside this file)

The files are committed; the same bytes come out on every machine and Python version.
"""

import random
import sys
from pathlib import Path

USERS, ITEMS = 60, 40
SHORTEST, LONGEST = 5, 14
JUMP = 0.1  # share of steps that go to any item instead of the next one
START = 1700000000  # seconds
COLOURS = ("Amber", "Blue", "Coral", "Green", "Ivory", "Olive", "Violet", "White")
THINGS = ("Bowl", "Cup", "Jug", "Plate", "Vase")


def below(rng, limit):
    """A number from 0 to limit - 1. Only random() itself gives the same numbers in every Python version."""
    return int(rng.random() * limit)


def interactions():
    """Yield (user, item, timestamp in seconds)."""
    rng = random.Random(2024)
    for user in range(1, USERS + 1):
        item = below(rng, ITEMS)
        time = START + user * 100000
        for _ in range(SHORTEST + below(rng, LONGEST - SHORTEST + 1)):
            yield f"u{user}", f"i{item + 1}", time
            item = below(rng, ITEMS) if rng.random() < JUMP else (item + 1) % ITEMS
            time += 60 + below(rng, 600)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    inter = ["user_id:token\titem_id:token\ttimestamp:float"] + ["\t".join(map(str, row)) for row in interactions()]
    item = ["item_id:token\ttitle:token_seq"]
    item += [f"i{i + 1}\t{COLOURS[i // len(THINGS)]} {THINGS[i % len(THINGS)]}" for i in range(ITEMS)]
    for name, lines in (("toy.inter", inter), ("toy.item", item)):
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "toy")
